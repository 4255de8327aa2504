/** Where the sidecar is, and how gRPC is told to behave towards it. */

import { BlockList, isIP } from "node:net";

import type { ChannelOptions } from "@grpc/grpc-js";

/** Where a sidecar listens unless it is told otherwise. */
export const DEFAULT_ADDRESS = "127.0.0.1:50551";

const MAX_MESSAGE_BYTES = 64 * 2 ** 20;

const HOST_AND_PORT = /^(?:\[[0-9A-Fa-f:.]+\]|[^\s:/?#%@[\]]+):([0-9]{1,5})$/;
const SOCKET = /^unix:(\/\/(?=\/))?\/?[^/].*$/;
const TLS = "tls://";

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

const SERVICE_CONFIG = {
  methodConfig: [
    {
      // All of these can be repeated without harm. EmbedStream is not among them: only its caller
      // knows what was answered. Health is not: it is asked for the truth now.
      name: [
        { service: "embercache.v1.EmbedService", method: "Embed" },
        { service: "embercache.v1.EmbedService", method: "ListModels" },
        { service: "embercache.v1.SearchService" },
        { service: "embercache.v1.GenerateService" },
        { service: "embercache.v1.CacheService" },
      ],
      retryPolicy: {
        // Five attempts are the most that gRPC allows; with waits of 0.1, 0.3, 0.9 and 2 seconds
        // they outlast the restart of a sidecar.
        maxAttempts: 5,
        initialBackoff: "0.1s",
        maxBackoff: "2s",
        backoffMultiplier: 3,
        // The first two are what the sidecar answers when the same request may succeed a little
        // later, and what gRPC says of a sidecar that restarts; a server that ends may also cancel
        // a call that has only just reached it.
        retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
      },
    },
  ],
};

export const CHANNEL_OPTIONS: ChannelOptions = {
  "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
  // gRPC forgets requests larger than this, and then cannot retry them.
  "grpc.per_rpc_retry_buffer_size": MAX_MESSAGE_BYTES,
  "grpc.retry_buffer_size": 4 * MAX_MESSAGE_BYTES, // of all calls that are under way
  "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
  "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
  // A sidecar is next door: a proxy in the environment is not meant for it.
  "grpc.enable_http_proxy": 0,
  // A sidecar that restarts is back within seconds: look for it more often than gRPC would.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2000,
};

/** Where a sidecar is: `target` as gRPC takes it. */
export interface Place {
  target: string;
  isEncrypted: boolean;
}

/** The address given, else `EMBERCACHE_ADDRESS`, else the default. */
export function place(address?: string): Place {
  const chosen = address || process.env["EMBERCACHE_ADDRESS"] || DEFAULT_ADDRESS;
  const isEncrypted = chosen.startsWith(TLS);
  const target = isEncrypted ? chosen.slice(TLS.length) : chosen;
  const port = Number(HOST_AND_PORT.exec(target)?.[1]);
  if ((port > 0 && port < 2 ** 16) || SOCKET.test(chosen)) {
    return { target, isEncrypted };
  }
  const source = address ? "the address" : "EMBERCACHE_ADDRESS";
  throw new TypeError(
    `${source} is ${JSON.stringify(chosen)}; write HOST:PORT (1 to 65535), tls://HOST:PORT for TLS, ` +
      "unix:///absolute/path or unix:path",
  );
}

/** Whether nobody else can read what is sent there. */
export function isPrivate({ target, isEncrypted }: Place): boolean {
  if (isEncrypted || target.startsWith("unix:")) {
    return true;
  }
  const host = target.slice(0, target.lastIndexOf(":")).replace(/^\[|\]$/g, "");
  const version = isIP(host);
  return host === "localhost" || (version > 0 && LOOPBACK.check(host, version === 6 ? "ipv6" : "ipv4"));
}
