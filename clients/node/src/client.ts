import * as grpc from "@grpc/grpc-js";

import { CHANNEL_OPTIONS, target } from "./channel.js";
import { CacheServiceService } from "./gen/embercache/v1/cache.js";
import { EmbedServiceService } from "./gen/embercache/v1/embed.js";
import { GenerateServiceService } from "./gen/embercache/v1/generate.js";
import { SearchServiceService } from "./gen/embercache/v1/search.js";

/** No two services have a method of the same name. */
const METHODS = {
  ...EmbedServiceService,
  ...SearchServiceService,
  ...GenerateServiceService,
  ...CacheServiceService,
};

/** Deadline, metadata and so on of one call. */
export interface CallOptions extends grpc.CallOptions {
  /** `new Metadata({ waitForReady: true })` waits for a sidecar that is away until the deadline. */
  metadata?: grpc.Metadata;
}

type Call<Method> = Method extends {
  requestStream: infer Uploads;
  responseStream: infer Downloads;
  requestSerialize: (request: infer Request) => Buffer;
  responseDeserialize: (bytes: Buffer) => infer Response;
}
  ? Uploads extends true
    ? (options?: CallOptions) => grpc.ClientDuplexStream<Request, Response>
    : Downloads extends true
      ? (request: Request, options?: CallOptions) => AsyncGenerator<Response, void, void>
      : (request: Request, options?: CallOptions) => Promise<Response>
  : never;

/**
 * Every method of the contract: one answer is a promise, a stream of answers an async generator,
 * whose call begins when it is first asked and is cancelled when it is left early. `embedStream`
 * is a duplex stream of gRPC.
 *
 * A call that fails throws gRPC's `ServiceError`; the contract says which `code` means what.
 */
export type Client = { readonly [Name in keyof typeof METHODS]: Call<(typeof METHODS)[Name]> } & {
  /** Closes the connection, without which a program does not end. */
  close(): void;
};

/**
 * Opens a connection to the sidecar at `address`, which is `HOST:PORT`, `unix:PATH` or
 * `unix:///PATH`; without it to `EMBERCACHE_ADDRESS` from the environment, else to
 * `127.0.0.1:50551`. Nothing is sent before the first call.
 *
 * A call that fails with `UNAVAILABLE` or `RESOURCE_EXHAUSTED` has been tried five times, within
 * about 3.3 seconds, unless its deadline came first. A stream of answers is retried until the
 * first of them. Calls have no deadline but their own.
 *
 * `options` are those of gRPC's channels, and win over the ones of this package.
 *
 * @throws TypeError if the address is none
 */
export function connect(address?: string, options: grpc.ClientOptions = {}): Client {
  const channel = new grpc.Client(target(address), grpc.credentials.createInsecure(), {
    ...CHANNEL_OPTIONS,
    ...options,
  });
  const calls = Object.entries(METHODS).map(([name, method]) => [name, bind(channel, method)]);
  return { ...Object.fromEntries(calls), close: () => channel.close() };
}

function bind(channel: grpc.Client, method: grpc.MethodDefinition<any, any>) {
  const { path, requestSerialize: write, responseDeserialize: read } = method;

  function duplex({ metadata = new grpc.Metadata(), ...options }: CallOptions = {}) {
    return channel.makeBidiStreamRequest(path, write, read, metadata, options);
  }

  async function* answers(
    request: unknown,
    { metadata = new grpc.Metadata(), ...options }: CallOptions = {},
  ) {
    const stream = channel.makeServerStreamRequest(path, write, read, request, metadata, options);
    try {
      yield* stream;
    } finally {
      stream.on("error", () => {}); // cancelling is one, and ends the program if nobody listens
      stream.cancel();
    }
  }

  function answer(
    request: unknown,
    { metadata = new grpc.Metadata(), ...options }: CallOptions = {},
  ) {
    return new Promise((resolve, reject) => {
      channel.makeUnaryRequest(path, write, read, request, metadata, options, (error, response) =>
        error ? reject(error) : resolve(response),
      );
    });
  }

  return method.requestStream ? duplex : method.responseStream ? answers : answer;
}
