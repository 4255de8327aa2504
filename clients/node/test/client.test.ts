import assert from "node:assert/strict";
import { EventEmitter, getEventListeners, on, once } from "node:events";
import { mkdtempSync, renameSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import * as grpc from "@grpc/grpc-js";
import {
  CacheServiceService,
  connect,
  EmbedRequest,
  EmbedResponse,
  type EmbedServiceServer,
  EmbedServiceService,
  type GenerateRequest,
  GenerateStreamResponse,
  GenerateServiceService,
  ListModelsResponse,
  SearchServiceService,
} from "embercache";

import { CHANNEL_OPTIONS } from "../src/channel.js";
import { addresses } from "./addresses.js";

const { CANCELLED, RESOURCE_EXHAUSTED, UNAVAILABLE } = grpc.status;
const folder = mkdtempSync(join(tmpdir(), "embercache-"));
const endings: (() => void)[] = [];
after(() => endings.forEach((end) => end()));

/** Fails the first calls with a status, then answers. */
class Service {
  calls = 0;
  vector = Buffer.alloc(0);
  request?: EmbedRequest;
  readonly #events = new EventEmitter();

  constructor(
    readonly failures = 0,
    readonly code = UNAVAILABLE,
  ) {}

  /** Calls that are not answered, as they come. */
  readonly reached = on(this.#events, "reached");
  /** Those of them that are cancelled. */
  readonly left = on(this.#events, "left");

  silent(call: EventEmitter) {
    call.on("cancelled", () => this.#events.emit("left"));
    this.#events.emit("reached");
  }

  failure(): Partial<grpc.ServiceError> | null {
    this.calls += 1;
    return this.calls <= this.failures ? { code: this.code, details: "not now" } : null;
  }

  async listen(address: string) {
    const server = new grpc.Server({ "grpc.max_receive_message_length": -1 });
    const embeds: EmbedServiceServer = {
      embed: (call, answer) => {
        this.request = call.request;
        const failure = this.failure();
        if (call.request.model === "silent") {
          this.silent(call);
        } else {
          answer(failure, EmbedResponse.create({ embeddings: [{ vector: this.vector }] }));
        }
      },
      embedStream: (call) => {
        const failure = this.failure();
        if (failure) {
          call.emit("error", failure);
        } else {
          this.silent(call);
        }
      },
      listModels: (_, answer) => answer(this.failure(), ListModelsResponse.create()),
    };
    server.addService(EmbedServiceService, embeds);
    server.addService(GenerateServiceService, {
      generateStream: (call: grpc.ServerWritableStream<GenerateRequest, GenerateStreamResponse>) => {
        const failure = this.failure();
        if (failure) {
          call.emit("error", failure);
          return;
        }
        if (call.request.model === "silent") {
          this.silent(call);
          return;
        }
        call.write(GenerateStreamResponse.create({ text: "a piece" }));
        if (call.request.model === "endless") {
          this.silent(call);
        } else {
          call.write(GenerateStreamResponse.create({ text: "the last" }));
          call.end();
        }
      },
    } as unknown as grpc.UntypedServiceImplementation);
    endings.push(() => server.forceShutdown());
    const port = await new Promise<number>((resolve, reject) =>
      server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      ),
    );
    return { port, server };
  }
}

async function started(service: Service) {
  const { port } = await service.listen("127.0.0.1:0");
  return `127.0.0.1:${port}`;
}

function open(...given: Parameters<typeof connect>) {
  const client = connect(...given);
  endings.push(() => client.close());
  return client;
}

const deadline = () => ({ deadline: Date.now() + 60_000 });
const request = { inputs: [{ text: "a text" }] };

test("a call that may succeed later is tried five times", async () => {
  const five = async (code: grpc.status) => {
    const patient = new Service(4, code);
    const hopeless = new Service(9, code);
    await Promise.all([
      open(await started(patient)).embed(request, deadline()),
      assert.rejects(open(await started(hopeless)).embed(request, deadline()), { code }),
    ]);
    assert.deepEqual([patient.calls, hopeless.calls], [5, 5]);
  };
  await Promise.all([UNAVAILABLE, RESOURCE_EXHAUSTED, CANCELLED].map(five));
});

for (const name of [
  "INVALID_ARGUMENT",
  "NOT_FOUND",
  "FAILED_PRECONDITION",
  "INTERNAL",
  "UNAUTHENTICATED",
  "PERMISSION_DENIED",
] as const) {
  test(`a call that ends with ${name} is tried once`, async () => {
    const wrong = new Service(9, grpc.status[name]);
    const call = open(await started(wrong)).embed(request, deadline());
    await assert.rejects(call, { code: grpc.status[name], details: "not now" });
    assert.equal(wrong.calls, 1);
  });
}

test("calls are tried for about three seconds", () => {
  const [{ retryPolicy }] = JSON.parse(CHANNEL_OPTIONS["grpc.service_config"]!).methodConfig;
  const { maxAttempts, initialBackoff, maxBackoff, backoffMultiplier } = retryPolicy;
  const waits = Array.from({ length: maxAttempts - 1 }, (_, retry) =>
    Math.min(parseFloat(initialBackoff) * backoffMultiplier ** retry, parseFloat(maxBackoff)),
  );
  assert.equal(waits.reduce((sum, wait) => sum + wait).toFixed(2), "3.30");
});

test("a call that its deadline ends is not tried for longer", async () => {
  const client = open(await started(new Service(9)));
  const call = client.embed(request, { deadline: Date.now() + 50 });
  await assert.rejects(call, { code: grpc.status.DEADLINE_EXCEEDED });
});

test("a stream of answers is retried until the first of them", async () => {
  const busy = new Service(1);
  const pieces = [];
  const client = open(await started(busy));
  for await (const { text } of client.generateStream({}, deadline())) {
    pieces.push(text);
  }
  assert.deepEqual(pieces, ["a piece", "the last"]);
});

test("a stream of answers that is left early is cancelled", { timeout: 60_000 }, async () => {
  const service = new Service();
  const client = open(await started(service));
  for await (const _ of client.generateStream({ model: "endless" })) {
    break;
  }
  await service.left.next();
});

test("a stream of answers that is left before the first of them is cancelled at once", { timeout: 60_000 }, async () => {
  const service = new Service();
  const messages = open(await started(service)).generateStream({ model: "silent" });
  const first = messages.next();
  await service.reached.next();
  assert.deepEqual(await messages.return(), { done: true, value: undefined });
  assert.deepEqual(await first, { done: true, value: undefined });
  await service.left.next();
});

test("a signal cancels a call of any kind", { timeout: 60_000 }, async () => {
  const service = new Service();
  const client = open(await started(service));
  const calls = [
    (signal: AbortSignal) => client.embed({ model: "silent" }, { signal }),
    (signal: AbortSignal) => client.generateStream({ model: "silent" }, { signal }).next(),
    (signal: AbortSignal) => once(client.embedStream({ signal }).resume(), "end"),
  ];
  for (const call of calls) {
    const controller = new AbortController();
    const called = assert.rejects(call(controller.signal), { code: CANCELLED });
    await service.reached.next();
    controller.abort();
    await called;
    await service.left.next();
  }
  for (const call of calls) {
    await assert.rejects(call(AbortSignal.abort()), { code: CANCELLED });
  }
});

test("a signal cancels a call that waits for a sidecar", { timeout: 60_000 }, async () => {
  const metadata = new grpc.Metadata({ waitForReady: true });
  const controller = new AbortController();
  const call = open(`unix:${join(folder, "nobody")}`).embed({}, { metadata, signal: controller.signal });
  controller.abort();
  await assert.rejects(call, { code: CANCELLED });
});

test("a signal that outlives a call forgets it", async () => {
  const { signal } = new AbortController();
  const client = open(await started(new Service()));
  await client.embed(request, { ...deadline(), signal });
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("fields of requests may be left out at any depth", async () => {
  const service = new Service();
  const client = open(await started(service));
  const data = Buffer.from([1, 2, 3]);
  await client.embed({ inputs: [{ text: "x" }, { tensor: { data } }], cache: {} }, deadline());
  const sent = EmbedRequest.decode(EmbedRequest.encode(service.request!).finish());
  assert.deepEqual(sent, EmbedRequest.create({ inputs: [{ text: "x" }, { tensor: { data } }], cache: {} }));
});

test("a stream of answers that nobody reads is never begun", async () => {
  const service = new Service();
  const client = open(await started(service));
  client.generateStream({}, deadline());
  await client.embed(request, deadline());
  assert.equal(service.calls, 1);
});

test("embedStream is not retried", async () => {
  const busy = new Service(1);
  const stream = open(await started(busy)).embedStream(deadline());
  const [error] = await once(stream.resume(), "error").catch((error) => [error]);
  assert.equal(error.code, UNAVAILABLE);
  assert.equal(busy.calls, 1);
});

test("messages of many megabytes pass and are retried", async () => {
  const size = 20 * 2 ** 20;
  const large = new Service(1);
  large.vector = Buffer.alloc(size);
  const inputs = [{ text: "a".repeat(size) }];
  const client = open(await started(large));
  const response = await client.embed({ inputs }, deadline());
  assert.equal(response.embeddings[0]!.vector.byteLength, size);
});

test("a call survives a restart of the sidecar", async () => {
  const socket = `unix:${join(folder, "restarted")}`;
  const { server } = await new Service().listen(socket);
  const client = open(socket);
  await client.embed(request, deadline());
  server.forceShutdown();
  await assert.rejects(client.embed(request, { deadline: Date.now() + 20 }));
  const call = client.embed(request, deadline());
  await new Service().listen(socket);
  await call;
});

test("a sidecar that stays away is found out, but with waitForReady waited for", async () => {
  const socket = `unix:${join(folder, "late")}`;
  const metadata = new grpc.Metadata({ waitForReady: true });
  const patient = open(socket).embed(request, { ...deadline(), metadata });
  await assert.rejects(open(socket).embed(request, deadline()), { code: UNAVAILABLE });
  await new Service().listen(socket);
  await patient;
});

test("a sidecar that is away is looked for more than once a second", async () => {
  let connections = 0;
  const closed = createServer((socket) => {
    connections += 1;
    socket.destroy();
  });
  endings.push(() => closed.close());
  await once(closed.listen(join(folder, "closed")), "listening");
  const call = open(`unix:${join(folder, "closed")}`).embed(request, deadline());
  await assert.rejects(call, { code: UNAVAILABLE }); // after about 3.3 seconds
  assert.ok(connections > 2, `there were ${connections} connections`);
});

test("options of the caller win", async () => {
  const busy = new Service(1);
  const client = open(await started(busy), { "grpc.enable_retries": 0 });
  await assert.rejects(client.embed(request, deadline()), { code: UNAVAILABLE });
  assert.equal(busy.calls, 1);
});

test("the address given wins over the environment, which wins over the default", async () => {
  const [given, environment] = [new Service(), new Service()];
  process.env["EMBERCACHE_ADDRESS"] = await started(environment);
  try {
    await open(await started(given)).embed(request, deadline());
    assert.deepEqual([given.calls, environment.calls], [1, 0]);
    await open().embed(request, deadline());
    assert.deepEqual([given.calls, environment.calls], [1, 1]);
  } finally {
    delete process.env["EMBERCACHE_ADDRESS"];
  }
});

test("every form of an address reaches the sidecar", async () => {
  const service = new Service();
  const { port } = await service.listen("127.0.0.1:0");
  await service.listen(`unix:${folder}/s`);
  const before = process.cwd();
  process.chdir(folder);
  try {
    for (const address of [`127.0.0.1:${port}`, `localhost:${port}`, `unix://${folder}/s`, `unix:${folder}/s`, "unix:s"]) {
      await open(address).embed(request, deadline());
    }
  } finally {
    process.chdir(before);
  }
});

test("a proxy in the environment is not asked", async () => {
  const address = await started(new Service());
  const before = { ...process.env };
  for (const name of ["no_grpc_proxy", "no_proxy", "NO_PROXY"]) {
    delete process.env[name];
  }
  try {
    for (const name of ["grpc_proxy", "https_proxy", "http_proxy"]) {
      process.env[name] = "http://127.0.0.1:1"; // nobody is there
      await open(address).embed(request, deadline());
      delete process.env[name];
    }
  } finally {
    process.env = before;
  }
});

test("what is an address is taken", () => {
  addresses("accept").forEach((address) => open(address));
});

test("a socket may have any name", async () => {
  const before = process.cwd();
  process.chdir(folder);
  try {
    for (const [i, name] of addresses("socket").entries()) {
      await new Service().listen(`unix:${folder}/any${i}`);
      renameSync(`any${i}`, name);
      for (const address of [`unix:${folder}/${name}`, `unix://${folder}/${name}`, `unix:${name}`]) {
        await open(address).embed(request, deadline());
      }
    }
  } finally {
    process.chdir(before);
  }
});

test("a wrong address is refused with where it came from", () => {
  for (const address of addresses("refuse")) {
    assert.throws(() => connect(address), {
      name: "TypeError",
      message:
        `the address is "${address}"; write HOST:PORT (1 to 65535), tls://HOST:PORT for TLS, ` +
        "unix:///absolute/path or unix:path",
    });
  }
  process.env["EMBERCACHE_ADDRESS"] = "localhost";
  try {
    assert.throws(() => connect(), { message: /^EMBERCACHE_ADDRESS is "localhost"/ });
  } finally {
    delete process.env["EMBERCACHE_ADDRESS"];
  }
});

test("the client has every method of every service", () => {
  const services = [EmbedServiceService, SearchServiceService, GenerateServiceService, CacheServiceService];
  const methods = services.flatMap((service) => Object.keys(service));
  assert.deepEqual(Object.keys(open()).sort(), [...methods, "close"].sort());
});
