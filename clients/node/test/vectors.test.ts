import assert from "node:assert/strict";
import { test } from "node:test";

import { status } from "@grpc/grpc-js";
import { EmbedResponse, Encoding, InputError, PartialFailureError, vectors } from "embercache";

interface Item {
  vector?: Buffer;
  scale?: number;
  error?: { code: number; message: string };
}

function answer(encoding: Encoding, dimensions: number, ...embeddings: Item[]): EmbedResponse {
  // Over the wire and back: vectors then begin at any place of a larger buffer.
  const sent = EmbedResponse.create({ encoding, dimensions, embeddings, model: "m" });
  return EmbedResponse.decode(EmbedResponse.encode(sent).finish());
}

function halves(...values: number[]): Buffer {
  return Buffer.from(Uint16Array.from(values).buffer);
}

test("float32 vectors are read bit for bit", () => {
  const expected = new Float32Array([0, -0, 1.5, -0.1, 3.4028234663852886e38, 1e-45]);
  for (const encoding of [Encoding.ENCODING_FLOAT32, Encoding.ENCODING_UNSPECIFIED]) {
    const [vector] = vectors(answer(encoding, 6, { vector: Buffer.from(expected.buffer) }));
    assert.deepEqual(Buffer.from(vector!.buffer), Buffer.from(expected.buffer));
  }
});

test("float16 vectors are read exactly", () => {
  const expected = new Map([
    [0x0000, 0],
    [0x8000, -0],
    [0x3c00, 1],
    [0xbc00, -1],
    [0x3555, 0.333251953125],
    [0x7bff, 65504],
    [0xfbff, -65504],
    [0x0400, 2 ** -14], // the smallest that is normal
    [0x03ff, 2 ** -14 - 2 ** -24],
    [0x0001, 2 ** -24],
    [0x8001, -(2 ** -24)],
    [0x7c00, Infinity],
    [0xfc00, -Infinity],
    [0x7e00, NaN],
  ]);
  const vector = halves(...expected.keys());
  const [read] = vectors(answer(Encoding.ENCODING_FLOAT16, expected.size, { vector }));
  assert.deepEqual([...read!], [...expected.values()]);
});

test("every float16 of one sign is larger than the one before", () => {
  const vector = halves(...Array(0x7c01).keys()); // up to infinity
  const [read] = vectors(answer(Encoding.ENCODING_FLOAT16, 0x7c01, { vector }));
  assert.ok(read!.every((value, i) => i === 0 || value > read![i - 1]!));
});

test("int8 vectors are scaled, each by its own", () => {
  const read = vectors(
    answer(
      Encoding.ENCODING_INT8,
      3,
      { vector: Buffer.from([0x80, 0, 127]), scale: 0.5 },
      { vector: Buffer.from([0xff, 1, 2]), scale: 0.25 },
    ),
  );
  assert.deepEqual(read, [Float32Array.of(-64, 0, 63.5), Float32Array.of(-0.25, 0.25, 0.5)]);
});

test("an input that failed leaves the others their vectors and says why", () => {
  const response = answer(
    Encoding.ENCODING_INT8,
    1,
    { vector: Buffer.from([1]), scale: 1 },
    { error: { code: status.NOT_FOUND, message: "not cached" } },
    { vector: Buffer.from([2]), scale: 1 },
    { error: { code: status.INVALID_ARGUMENT, message: "too long" } },
  );
  assert.throws(
    () => vectors(response),
    (error) => {
      assert.ok(error instanceof PartialFailureError);
      assert.deepEqual(error.vectors, [Float32Array.of(1), undefined, Float32Array.of(2), undefined]);
      assert.deepEqual(
        error.errors.map(({ index, code, message }) => [index, code, message]),
        [
          [1, status.NOT_FOUND, "input 1: not cached (NOT_FOUND)"],
          [3, status.INVALID_ARGUMENT, "input 3: too long (INVALID_ARGUMENT)"],
        ],
      );
      assert.ok(error.errors[0] instanceof InputError);
      assert.match(error.message, /^2 of 4 inputs failed, the first with: input 1: not cached/);
      return true;
    },
  );
});

test("an answer that makes no sense is an error that names the input", () => {
  const good = { vector: Buffer.from([1]), scale: 1 };
  const bad = { vector: Buffer.from([1, 2, 3]) };
  const sent = (encoding: Encoding, ...items: Item[]) => () => vectors(answer(encoding, 1, ...items));
  assert.throws(sent(Encoding.ENCODING_INT8, good, bad), {
    name: "RangeError",
    message: /^input 1: the sidecar sent 3 bytes, .* 1 dimensions in ENCODING_INT8$/,
  });
  assert.throws(sent(Encoding.ENCODING_FLOAT16, bad), { message: /^input 0: .* 3 bytes/ });
  assert.throws(sent(99 as Encoding, good), { message: /does not know the encoding 99/ });
});
