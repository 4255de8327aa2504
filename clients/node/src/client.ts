import * as grpc from "@grpc/grpc-js";

import { CHANNEL_OPTIONS, place } from "./channel.js";
import { channelCredentials, chosen, type CredentialFiles, Token } from "./credentials.js";
import * as cache from "./gen/embercache/v1/cache.js";
import * as embed from "./gen/embercache/v1/embed.js";
import * as generate from "./gen/embercache/v1/generate.js";
import * as search from "./gen/embercache/v1/search.js";

/** No two services have a method of the same name. */
const METHODS = {
  ...embed.EmbedServiceService,
  ...search.SearchServiceService,
  ...generate.GenerateServiceService,
  ...cache.CacheServiceService,
};

type Methods = typeof METHODS;

/** What makes whole messages of what the caller gives; the stubs do not say it of a method. */
const REQUESTS: { [Name in keyof Methods]: { fromPartial(request: any): Request<Methods[Name]> } } = {
  embed: embed.EmbedRequest,
  embedStream: embed.EmbedStreamRequest,
  listModels: embed.ListModelsRequest,
  search: search.SearchRequest,
  upsert: search.UpsertRequest,
  delete: search.DeleteRequest,
  rerank: search.RerankRequest,
  generate: generate.GenerateRequest,
  generateStream: generate.GenerateRequest,
  listGenerators: generate.ListGeneratorsRequest,
  stats: cache.StatsRequest,
  invalidate: cache.InvalidateRequest,
  publishEvents: cache.PublishEventsRequest,
  warm: cache.WarmRequest,
  migrateModel: cache.MigrateModelRequest,
  rollbackModel: cache.RollbackModelRequest,
  flush: cache.FlushRequest,
};

/** Deadline, metadata and so on of one call. */
export interface CallOptions extends grpc.CallOptions {
  /** `new Metadata({ waitForReady: true })` waits for a sidecar that is away until the deadline. */
  metadata?: grpc.Metadata;
  /** Cancels the call, which then fails with `CANCELLED`. */
  signal?: AbortSignal;
}

/** A message of which fields may be left out, at any depth. */
export type Partially<Message> = Message extends Uint8Array | Function
  ? Message
  : Message extends readonly (infer Item)[]
    ? readonly Partially<Item>[]
    : Message extends object
      ? { [Field in keyof Message]?: Partially<Message[Field]> }
      : Message;

type Request<Method> = Method extends { requestSerialize: (request: infer Message) => Buffer }
  ? Message
  : never;

type Call<Method> = Method extends {
  requestStream: infer Uploads;
  responseStream: infer Downloads;
  responseDeserialize: (bytes: Buffer) => infer Response;
}
  ? Uploads extends true
    ? (options?: CallOptions) => grpc.ClientDuplexStream<Partially<Request<Method>>, Response>
    : Downloads extends true
      ? (
          request: Partially<Request<Method>>,
          options?: CallOptions,
        ) => AsyncGenerator<Response, void, void>
      : (request: Partially<Request<Method>>, options?: CallOptions) => Promise<Response>
  : never;

/**
 * Every method of the contract: one answer is a promise, a stream of answers an async generator,
 * whose call begins when it is first asked and is cancelled when it is left early. `embedStream`
 * is a duplex stream of gRPC. Fields of requests that are left out have their defaults.
 *
 * A call that fails throws gRPC's `ServiceError`; the contract says which `code` means what.
 */
export type Client = { readonly [Name in keyof Methods]: Call<Methods[Name]> } & {
  /** Closes the connection, without which a program does not end. */
  close(): void;
};

/** Files, and what gRPC's channels can be told, which wins over the options of this package. */
export type ConnectOptions = CredentialFiles & grpc.ClientOptions;

/**
 * Opens a connection to the sidecar at `address`, which is `HOST:PORT`, `tls://HOST:PORT`,
 * `unix:PATH` or `unix:///PATH`; without it to `EMBERCACHE_ADDRESS` from the environment, else to
 * `127.0.0.1:50551`. Nothing is sent before the first call.
 *
 * A call that fails with `UNAVAILABLE` or `RESOURCE_EXHAUSTED` has been tried five times, within
 * about 3.3 seconds, unless its deadline came first. A stream of answers is retried until the
 * first of them. Calls have no deadline but their own.
 *
 * @throws TypeError if the address is none, or a file is not for this address
 * @throws Error if a file cannot be read or makes no sense
 */
export function connect(address?: string, options: ConnectOptions = {}): Client {
  const { tokenFile, caFile, certFile, keyFile, ...channelOptions } = options;
  const where = place(address);
  const files = chosen({ tokenFile, caFile, certFile, keyFile });
  const token = files.tokenFile ? new Token(where, files.tokenFile) : undefined;
  const channel = new grpc.Client(where.target, channelCredentials(where, files), {
    ...CHANNEL_OPTIONS,
    ...channelOptions,
  });
  const calls = Object.entries(METHODS).map(([name, method]) => {
    const { fromPartial } = REQUESTS[name as keyof Methods];
    const write = (request: unknown) => method.requestSerialize(fromPartial(request) as never);
    return [name, bind(channel, token, { ...method, requestSerialize: write })];
  });
  return { ...Object.fromEntries(calls), close: () => channel.close() };
}

function bind(
  channel: grpc.Client,
  token: Token | undefined,
  method: grpc.MethodDefinition<any, any>,
) {
  const { path, requestSerialize: write, responseDeserialize: read } = method;
  const shown = (metadata = new grpc.Metadata()) => token?.addedTo(metadata) ?? metadata;

  function duplex({ metadata, signal, ...options }: CallOptions = {}) {
    const stream = channel.makeBidiStreamRequest(path, write, read, shown(metadata), options);
    cancelOn(signal, stream);
    return stream;
  }

  function answers(request: unknown, { metadata, signal, ...options }: CallOptions = {}) {
    let stream: grpc.ClientReadableStream<unknown> | undefined;
    let left = false;

    async function* received() {
      stream = channel.makeServerStreamRequest(path, write, read, request, shown(metadata), options);
      stream.on("error", () => {}); // cancelling is one, and ends the program if nobody listens
      cancelOn(signal, stream);
      try {
        yield* stream;
      } catch (error) {
        if (!left) {
          throw error;
        }
      } finally {
        stream.cancel();
      }
    }

    const messages = received();
    // A generator that waits for a message would not hear that it is left before that comes.
    const leave = messages.return.bind(messages);
    messages.return = (value) => {
      left = true;
      stream?.cancel();
      return leave(value);
    };
    return messages;
  }

  function answer(request: unknown, { metadata, signal, ...options }: CallOptions = {}) {
    return new Promise((resolve, reject) => {
      const call = channel.makeUnaryRequest(
        path,
        write,
        read,
        request,
        shown(metadata),
        options,
        (error, response) => (error ? reject(error) : resolve(response)),
      );
      cancelOn(signal, call);
    });
  }

  return method.requestStream ? duplex : method.responseStream ? answers : answer;
}

type AnyCall = grpc.ClientUnaryCall | grpc.ClientReadableStream<any> | grpc.ClientDuplexStream<any, any>;

function cancelOn(signal: AbortSignal | undefined, call: AnyCall) {
  if (!signal) {
    return;
  }
  const cancel = () => call.cancel();
  if (signal.aborted) {
    cancel();
  }
  signal.addEventListener("abort", cancel);
  // A signal may outlive many calls.
  call.on("status", () => signal.removeEventListener("abort", cancel));
}
