export * from "./client.js";
export type { CredentialFiles } from "./credentials.js";
export * from "./vectors.js";
export * from "./gen/embercache/v1/cache.js";
export * from "./gen/embercache/v1/common.js";
export * from "./gen/embercache/v1/embed.js";
export * from "./gen/embercache/v1/generate.js";
export * from "./gen/embercache/v1/search.js";
export * from "./gen/embercache/v1/verifier.js";
