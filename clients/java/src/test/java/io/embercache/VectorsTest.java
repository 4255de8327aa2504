package io.embercache;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.google.protobuf.ByteString;
import io.embercache.v1.EmbedResponse;
import io.embercache.v1.Embedding;
import io.embercache.v1.Encoding;
import io.embercache.v1.ItemError;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class VectorsTest {
  private static final int HALVES = 1 << 16;

  @ParameterizedTest
  @EnumSource(names = {"ENCODING_UNSPECIFIED", "ENCODING_FLOAT32"})
  void float32IsReadBitForBit(Encoding encoding) {
    float[] expected = {0f, -0f, 1.5f, Float.MIN_VALUE, Float.MAX_VALUE, -1e-7f};
    ByteBuffer bytes = buffer(Float.BYTES * expected.length);
    for (float each : expected) {
      bytes.putFloat(each);
    }
    assertArrayEquals(expected, only(answer(encoding, expected.length, vector(bytes))));
  }

  @Test
  void everyFloat16IsReadExactly() {
    ByteBuffer bytes = buffer(Short.BYTES * HALVES);
    float[] expected = new float[HALVES];
    for (int half = 0; half < HALVES; half++) {
      bytes.putShort((short) half);
      expected[half] = float16(half);
    }
    assertArrayEquals(expected, only(answer(Encoding.ENCODING_FLOAT16, HALVES, vector(bytes))));
  }

  @Test
  void int8IsMultipliedByTheScaleOfItsVector() {
    ByteBuffer bytes = buffer(3).put((byte) -128).put((byte) 0).put((byte) 127);
    Embedding embedding = vector(bytes).toBuilder().setScale(0.5f).build();
    float[] expected = {-64f, 0f, 63.5f};
    assertArrayEquals(expected, only(answer(Encoding.ENCODING_INT8, 3, embedding)));
  }

  @Test
  void inputsThatFailedAreAnExceptionThatHasTheVectorsOfTheOthers() {
    Embedding full = vector(buffer(Float.BYTES).putFloat(2f));
    EmbedResponse answer =
        answer(Encoding.ENCODING_FLOAT32, 1, full, failed(3, "too long"), full, failed(14, "away"));

    PartialFailureException failure =
        assertThrows(PartialFailureException.class, () -> Vectors.of(answer));

    assertArrayEquals(new float[] {2f}, failure.vectors()[0]);
    assertNull(failure.vectors()[1]);
    assertArrayEquals(new float[] {2f}, failure.vectors()[2]);
    assertEquals(Set.of(1, 3), failure.errors().keySet());
    assertEquals(Status.Code.UNAVAILABLE, failure.errors().get(3).getCode());
    assertEquals(
        "INVALID_ARGUMENT: 2 of 4 inputs failed, the first with: input 1: too long",
        failure.getMessage());
  }

  @Test
  void bytesThatAreNoVectorOfTheModelAreAnError() {
    EmbedResponse answer =
        answer(Encoding.ENCODING_FLOAT32, 2, vector(buffer(8)), vector(buffer(7)));
    assertEquals(
        "INTERNAL: input 1: the sidecar sent 7 bytes, which are no vector of 2 dimensions in"
            + " ENCODING_FLOAT32",
        assertThrows(StatusRuntimeException.class, () -> Vectors.of(answer)).getMessage());
  }

  @Test
  void anEncodingOfANewerSidecarIsAnError() {
    EmbedResponse answer =
        EmbedResponse.newBuilder()
            .setEncodingValue(99)
            .setDimensions(1)
            .addEmbeddings(vector(buffer(1)))
            .build();
    assertEquals(
        "INTERNAL: input 0: this client does not know the encoding 99; a newer one may",
        assertThrows(StatusRuntimeException.class, () -> Vectors.of(answer)).getMessage());
  }

  /** The definition: sign, two to the power of the exponent, and the fraction. */
  private static float float16(int half) {
    double sign = half >> 15 == 0 ? 1 : -1;
    int exponent = half >> 10 & 0x1f;
    int fraction = half & 0x3ff;
    if (exponent == 0x1f) {
      return fraction == 0 ? (float) (sign / 0) : Float.NaN;
    }
    double significand = (exponent == 0 ? 0 : 1) + fraction / 1024.0;
    return (float) (sign * significand * Math.pow(2, Math.max(exponent, 1) - 15));
  }

  private static float[] only(EmbedResponse answer) {
    float[][] vectors = Vectors.of(answer);
    assertEquals(1, vectors.length);
    return vectors[0];
  }

  private static EmbedResponse answer(Encoding encoding, int dimensions, Embedding... embeddings) {
    return EmbedResponse.newBuilder()
        .setEncoding(encoding)
        .setDimensions(dimensions)
        .addAllEmbeddings(List.of(embeddings))
        .build();
  }

  private static Embedding vector(ByteBuffer bytes) {
    return Embedding.newBuilder().setVector(ByteString.copyFrom(bytes.array())).build();
  }

  private static Embedding failed(int code, String message) {
    ItemError.Builder error = ItemError.newBuilder().setCode(code).setMessage(message);
    return Embedding.newBuilder().setError(error).build();
  }

  private static ByteBuffer buffer(int size) {
    return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
  }
}
