/** Tokens and certificates. Real TLS sidecars are called by `make test-clients`. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import * as grpc from "@grpc/grpc-js";
import {
  connect,
  type ConnectOptions,
  EmbedResponse,
  EmbedServiceService,
  GenerateServiceService,
} from "embercache";

import { Token } from "../src/credentials.js";
import { addresses } from "./addresses.js";

const folder = mkdtempSync(join(tmpdir(), "embercache-"));
const endings: (() => void)[] = [];
after(() => endings.forEach((end) => end()));

const loopback = { target: "127.0.0.1:1", isEncrypted: false };
const deadline = () => ({ deadline: Date.now() + 60_000 });

function file(name: string, content: string): string {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
}

/** A sidecar, and the metadata of the calls that reach it. */
async function sidecar(address: string) {
  const seen: grpc.Metadata[] = [];
  const note = (call: { metadata: grpc.Metadata }) => seen.push(call.metadata);
  const server = new grpc.Server();
  server.addService(EmbedServiceService, {
    embed: (call: grpc.ServerUnaryCall<any, any>, answer: grpc.sendUnaryData<any>) => {
      note(call);
      answer(null, EmbedResponse.create());
    },
    embedStream: (call: grpc.ServerDuplexStream<any, any>) => {
      note(call);
      call.end();
    },
  });
  server.addService(GenerateServiceService, {
    generateStream: (call: grpc.ServerWritableStream<any, any>) => {
      note(call);
      call.end();
    },
  });
  endings.push(() => server.forceShutdown());
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  );
  const shown = () => seen.splice(0).flatMap((metadata) => metadata.get("authorization"));
  return { port, seen, shown };
}

function open(address: string, options: ConnectOptions) {
  const client = connect(address, options);
  endings.push(() => client.close());
  return client;
}

test("every call of any kind carries the token, over loopback and Unix socket", async () => {
  const tokenFile = file("token", "a-token\n");
  const [tcp, unix] = [await sidecar("127.0.0.1:0"), await sidecar(`unix:${folder}/s`)];
  for (const [address, { shown }] of [
    [`127.0.0.1:${tcp.port}`, tcp],
    [`unix:${folder}/s`, unix],
  ] as const) {
    const client = open(address, { tokenFile });
    await client.embed({}, deadline());
    await client.generateStream({}, deadline()).next();
    await once(client.embedStream(deadline()).resume(), "end");
    assert.deepEqual(shown(), Array(3).fill("Bearer a-token"));
  }
});

test("metadata of a call goes with the token and is not changed", async () => {
  const { port, seen } = await sidecar("127.0.0.1:0");
  const metadata = new grpc.Metadata({ waitForReady: true });
  metadata.set("of-the-call", "x");
  const client = open(`127.0.0.1:${port}`, { tokenFile: file("token", "a-token") });
  await client.embed({}, { ...deadline(), metadata });
  assert.deepEqual(seen[0]!.get("of-the-call"), ["x"]);
  assert.deepEqual(seen[0]!.get("authorization"), ["Bearer a-token"]);
  assert.deepEqual(metadata.getMap(), { "of-the-call": "x" });
  assert.equal(new Token(loopback, file("token", "t")).addedTo(metadata).getOptions().waitForReady, true);
});

test("the environment names the files that are not given", async () => {
  const { port, shown } = await sidecar("127.0.0.1:0");
  process.env["EMBERCACHE_TOKEN_FILE"] = file("of-environment", "of-environment");
  process.env["EMBERCACHE_CERT_FILE"] = "/missing/cert";
  process.env["EMBERCACHE_KEY_FILE"] = process.env["EMBERCACHE_TOKEN_FILE"];
  try {
    assert.throws(() => connect("tls://localhost:1"), /certificate file cannot be read.*missing\/cert/);
    process.env["EMBERCACHE_CA_FILE"] = "/missing/ca";
    assert.throws(() => connect("tls://localhost:1"), /CA file cannot be read.*missing\/ca/);
    for (const name of ["CA", "CERT", "KEY"]) {
      process.env[`EMBERCACHE_${name}_FILE`] = "";
    }
    await open(`127.0.0.1:${port}`, {}).embed({}, deadline());
    await open(`127.0.0.1:${port}`, { tokenFile: file("given", "given") }).embed({}, deadline());
    assert.deepEqual(shown(), ["Bearer of-environment", "Bearer given"]);
  } finally {
    for (const name of ["TOKEN", "CA", "CERT", "KEY"]) {
      delete process.env[`EMBERCACHE_${name}_FILE`];
    }
  }
});

test("without a token calls carry none", async () => {
  const { port, seen, shown } = await sidecar("127.0.0.1:0");
  await open(`127.0.0.1:${port}`, {}).embed({}, deadline());
  assert.equal(seen.length, 1);
  assert.deepEqual(shown(), []);
});

test("a token that is replaced is shown within ten seconds, and the last one meanwhile", () => {
  let now = 0;
  const token = new Token(loopback, file("replaced", "first\n"), () => now);
  const shown = () => token.addedTo(new grpc.Metadata()).get("authorization");
  file("replaced", "second");
  assert.deepEqual(shown(), ["Bearer first"]);
  now += 10_001;
  assert.deepEqual(shown(), ["Bearer second"]);
  rmSync(join(folder, "replaced"));
  now += 10_001;
  assert.deepEqual(shown(), ["Bearer second"]);
  file("replaced", "third");
  assert.deepEqual(shown(), ["Bearer second"]);
  now += 10_001;
  assert.deepEqual(shown(), ["Bearer third"]);
});

test("a token is sent where nobody else can read it", () => {
  const tokenFile = file("token", "a-token");
  addresses("private").forEach((address) => open(address, { tokenFile }));
  for (const address of addresses("public")) {
    assert.throws(() => connect(address, { tokenFile }), { name: "TypeError", message: /write tls:/ });
  }
});

const missing = "/missing/file";
const token = file("a-token", "a-token");
for (const [address, options, message] of [
  ["unix:s", { tokenFile: missing }, /^the token file cannot be read: ENOENT.*\/missing\/file/],
  ["unix:s", { tokenFile: file("empty", " \n") }, /empty holds no token$/],
  ["unix:s", { tokenFile: file("words", "é") }, /words holds no token$/],
  ["unix:s", { tokenFile: file("zero", "a\0b") }, /zero holds no token$/],
  ["unix:s", { caFile: token }, /^certificates are for an address like tls:\/\/HOST:PORT$/],
  ["localhost:1", { certFile: token, keyFile: token }, /^certificates are for an address like tls:/],
  ["tls://a:1", { caFile: missing }, /^the CA file cannot be read: .*\/missing\/file/],
  ["tls://a:1", { certFile: token, keyFile: token }, /^what is in .*a-token is no use: /],
  ["tls://a:1", { certFile: token }, /^give a certificate file and a key file, or neither$/],
  ["tls://a:1", { keyFile: token }, /^give a certificate file and a key file, or neither$/],
  ["tls://a:1", { certFile: missing, keyFile: token }, /^the certificate file cannot be read/],
  ["tls://a:1", { certFile: token, keyFile: missing }, /^the key file cannot be read/],
] as const) {
  test(`${JSON.stringify(options)} for ${address} is refused with what is wrong`, () => {
    assert.throws(() => connect(address, options), { message });
  });
}

test("the program of the guide says which file it lacks", () => {
  const program = () => {
    const client = connect("tls://sidecar.example:50551", {
      tokenFile: "/run/secrets/embercache/token",
      caFile: "/run/secrets/embercache/ca.crt",
    });
    client.close();
  };
  assert.throws(program, /the token file cannot be read: .*\/run\/secrets\/embercache\/token/);
});
