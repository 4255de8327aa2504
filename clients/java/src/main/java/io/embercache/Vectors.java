package io.embercache;

import com.google.protobuf.ByteString;
import io.embercache.v1.EmbedResponse;
import io.embercache.v1.Embedding;
import io.embercache.v1.Encoding;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.SortedMap;
import java.util.TreeMap;

/** Reads the vectors of answers. */
public final class Vectors {
  private Vectors() {}

  /**
   * The vectors of an answer, in the order of the inputs and whatever the encoding.
   *
   * @return an array for each input, of as many elements as the model has dimensions
   * @throws PartialFailureException if inputs failed; it has the vectors of the others
   * @throws StatusRuntimeException with code {@code INTERNAL} if the answer makes no sense
   */
  public static float[][] of(EmbedResponse response) {
    float[][] vectors = new float[response.getEmbeddingsCount()][];
    SortedMap<Integer, Status> errors = new TreeMap<>();
    for (int i = 0; i < vectors.length; i++) {
      Embedding embedding = response.getEmbeddings(i);
      if (embedding.hasError()) {
        Status status = Status.fromCodeValue(embedding.getError().getCode());
        errors.put(i, status.withDescription(embedding.getError().getMessage()));
      } else {
        vectors[i] = decode(i, embedding, response);
      }
    }
    if (!errors.isEmpty()) {
      throw new PartialFailureException(vectors, errors);
    }
    return vectors;
  }

  private static float[] decode(int input, Embedding embedding, EmbedResponse response) {
    Encoding encoding = response.getEncoding();
    int dimensions = response.getDimensions();
    ByteString data = embedding.getVector();
    if (encoding == Encoding.UNRECOGNIZED) {
      throw senseless(
          "input %d: this client does not know the encoding %d; a newer one may",
          input, response.getEncodingValue());
    }
    if (data.size() != (long) dimensions * width(encoding)) {
      throw senseless(
          "input %d: the sidecar sent %d bytes, which are no vector of %d dimensions in %s",
          input, data.size(), dimensions, encoding);
    }
    ByteBuffer bytes = data.asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
    float[] vector = new float[dimensions];
    switch (encoding) {
      case ENCODING_INT8:
        for (int i = 0; i < dimensions; i++) {
          vector[i] = bytes.get() * embedding.getScale();
        }
        return vector;
      case ENCODING_FLOAT16:
        for (int i = 0; i < dimensions; i++) {
          vector[i] = float16(bytes.getShort());
        }
        return vector;
      default:
        bytes.asFloatBuffer().get(vector);
        return vector;
    }
  }

  private static int width(Encoding encoding) {
    switch (encoding) {
      case ENCODING_INT8:
        return Byte.BYTES;
      case ENCODING_FLOAT16:
        return Short.BYTES;
      default:
        return Float.BYTES;
    }
  }

  /** Reads IEEE 754 half precision: 1 bit of sign, 5 of exponent, 10 of fraction. */
  private static float float16(short half) {
    int sign = (half & 0x8000) << 16;
    int exponent = half >> 10 & 0x1f;
    int fraction = half & 0x3ff;
    if (exponent == 0) { // subnormal
      return Math.copySign(fraction * 0x1p-24f, half);
    }
    int widened = exponent == 0x1f ? 0xff : exponent - 15 + 127;
    return Float.intBitsToFloat(sign | widened << 23 | fraction << 13);
  }

  private static StatusRuntimeException senseless(String format, Object... values) {
    return Status.INTERNAL.withDescription(String.format(format, values)).asRuntimeException();
  }
}
