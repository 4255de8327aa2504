import { status } from "@grpc/grpc-js";

import { type Embedding, type EmbedResponse, Encoding } from "./gen/embercache/v1/embed.js";

/** Why one input of a call has no vector; its batch-mates are not affected. */
export class InputError extends Error {
  override readonly name = "InputError";

  constructor(
    /** The place of the input in the call. */
    readonly index: number,
    /**
     * `UNAVAILABLE` and `RESOURCE_EXHAUSTED` may pass: ask for the input again a little later.
     */
    readonly code: status,
    reason: string,
  ) {
    super(`input ${index}: ${reason} (${status[code] ?? code})`);
  }
}

/** Some inputs have no vector: `errors` says which and why, `vectors` has the rest. */
export class PartialFailureError extends AggregateError {
  override readonly name = "PartialFailureError";
  declare errors: InputError[];

  constructor(
    errors: InputError[],
    /** In the order of the inputs; undefined where there is none. */
    readonly vectors: (Float32Array | undefined)[],
  ) {
    super(
      errors,
      `${errors.length} of ${vectors.length} inputs failed, the first with: ${errors[0]?.message}; ` +
        "this error's vectors has the rest",
    );
  }
}

/**
 * Reads the vectors of an answer, in the order of the inputs and whatever the encoding.
 *
 * @throws PartialFailureError if some inputs have no vector
 * @throws RangeError if the answer makes no sense
 */
export function vectors(response: EmbedResponse): Float32Array[] {
  const { dimensions, embeddings, encoding } = response;
  const errors: InputError[] = [];
  const read = embeddings.map((embedding, index) => {
    if (embedding.error) {
      errors.push(new InputError(index, embedding.error.code, embedding.error.message));
      return undefined;
    }
    return decode(embedding, index, encoding, dimensions);
  });
  if (errors.length) {
    throw new PartialFailureError(errors, read);
  }
  return read as Float32Array[];
}

function decode(
  embedding: Embedding,
  index: number,
  encoding: Encoding,
  dimensions: number,
): Float32Array {
  const { scale, vector } = embedding;
  const [width, element] = layout(encoding, index);
  if (vector.byteLength !== width * dimensions) {
    throw new RangeError(
      `input ${index}: the sidecar sent ${vector.byteLength} bytes, which are no vector of ` +
        `${dimensions} dimensions in ${Encoding[encoding]}`,
    );
  }
  const view = new DataView(vector.buffer, vector.byteOffset, vector.byteLength);
  return Float32Array.from({ length: dimensions }, (_, i) => element(view, i * width, scale));
}

type Element = (view: DataView, offset: number, scale: number) => number;

/** Bytes of one element, and how it is read. */
function layout(encoding: Encoding, index: number): [number, Element] {
  switch (encoding) {
    case Encoding.ENCODING_UNSPECIFIED:
    case Encoding.ENCODING_FLOAT32:
      return [4, (view, offset) => view.getFloat32(offset, true)];
    case Encoding.ENCODING_FLOAT16:
      return [2, (view, offset) => float16(view.getUint16(offset, true))];
    case Encoding.ENCODING_INT8:
      return [1, (view, offset, scale) => view.getInt8(offset) * scale];
    default:
      throw new RangeError(
        `input ${index}: this client does not know the encoding ${encoding}; a newer one may`,
      );
  }
}

/** Reads IEEE 754 half precision: 1 bit of sign, 5 of exponent, 10 of fraction. */
function float16(half: number): number {
  const sign = half >> 15 ? -1 : 1;
  const exponent = (half >> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0x1f) {
    return fraction ? NaN : sign * Infinity;
  }
  return exponent
    ? sign * (1024 + fraction) * 2 ** (exponent - 25)
    : sign * fraction * 2 ** -24; // subnormal
}
