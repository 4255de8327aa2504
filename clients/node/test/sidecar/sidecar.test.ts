/** Needs a sidecar at EMBERCACHE_ADDRESS, and fails without it. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";

import { Metadata, status } from "@grpc/grpc-js";
import {
  CacheMode,
  connect,
  Encoding,
  type Input,
  PartialFailureError,
  vectors,
} from "embercache";

assert.ok(
  process.env["EMBERCACHE_ADDRESS"],
  "set EMBERCACHE_ADDRESS to the address of a sidecar, or run make test-clients",
);

const client = connect();
after(() => client.close());
const deadline = () => ({ deadline: Date.now() + 60_000 });

/** They are not cached yet. */
function newInputs(): Input[] {
  const now = process.hrtime.bigint();
  return [{ text: `glowing coal at ${now}` }, { text: `an answer that is kept at ${now}` }];
}

async function embed(inputs: Input[], encoding?: Encoding) {
  return vectors(await client.embed({ inputs, encoding }, deadline()));
}

for (const [encoding, bound] of [
  [Encoding.ENCODING_FLOAT16, 2 ** -12], // half a step of a number below 1
  [Encoding.ENCODING_INT8, 0.5 / 127],
] as const) {
  test(`${Encoding[encoding]} is read as nearly the same vectors`, async () => {
    const inputs = newInputs();
    const exact = await embed(inputs);
    const coarse = await embed(inputs, encoding);
    const differences = exact.flatMap((vector, i) =>
      Array.from(vector, (element, j) => Math.abs(element - coarse[i]![j]!)),
    );
    assert.equal(differences.length, 2 * 384);
    const largest = Math.max(...differences);
    assert.ok(largest > 0 && largest <= bound, `the largest difference is ${largest}`);
  });
}

// A file with lines "ENCODING SHA256 TEXT"; the digest is of the decoded vector as float32 in
// little-endian order.
const expected = process.env["EMBERCACHE_TEST_EXPECTED"];
const skip = expected ? false : "make test-clients writes the file that this test needs";

test("every encoding is decoded to the bits that are expected", { skip }, async () => {
  const lines = readFileSync(expected!, "utf-8").matchAll(/^(\S+) (\S+) (.*)$/gm);
  for (const [, name, digest, text] of lines) {
    const encoding = Encoding[name as keyof typeof Encoding];
    const [vector] = await embed([{ text }], encoding);
    assert.equal(sha256(vector!), digest, `${name} of ${text!.slice(0, 40)}`);
  }
});

function sha256(vector: Float32Array): string {
  const bytes = Buffer.alloc(4 * vector.length);
  vector.forEach((element, i) => bytes.writeFloatLE(element, 4 * i));
  return createHash("sha256").update(bytes).digest("hex");
}

test("an input that is not cached is an error of that input alone", async () => {
  const inputs = newInputs();
  await embed(inputs.slice(0, 1));
  const request = { inputs, cache: { mode: CacheMode.CACHE_MODE_ONLY_IF_CACHED } };
  const response = await client.embed(request, deadline());
  assert.throws(
    () => vectors(response),
    (error) => {
      assert.ok(error instanceof PartialFailureError);
      assert.deepEqual(error.errors.map(({ index, code }) => [index, code]), [[1, status.NOT_FOUND]]);
      assert.equal(error.vectors[0]?.length, 384);
      return true;
    },
  );
});

test("a model that the sidecar does not have is refused with those it has", async () => {
  const request = { inputs: newInputs(), model: "unheard-of" };
  await assert.rejects(client.embed(request, deadline()), {
    code: status.NOT_FOUND,
    details: /choose one of minilm/,
  });
});

test("metadata goes with the call", async () => {
  const request = { inputs: [{ text: "a text" }] };
  const metadata = new Metadata({ waitForReady: true }); // of @grpc/grpc-js
  const response = await client.embed(request, { deadline: Date.now() + 60_000, metadata });
  assert.equal(response.model, "minilm");
});
