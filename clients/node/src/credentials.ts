/** What a client shows of itself, and what it believes a sidecar by. */

import { readFileSync } from "node:fs";

import { type ChannelCredentials, credentials, Metadata } from "@grpc/grpc-js";

import { isPrivate, type Place } from "./channel.js";

const REREAD_MS = 10_000;

/**
 * The files by which a client and a sidecar know each other. One that is left out is the one that
 * the environment names: `EMBERCACHE_TOKEN_FILE`, `EMBERCACHE_CA_FILE`, `EMBERCACHE_CERT_FILE` and
 * `EMBERCACHE_KEY_FILE`.
 *
 * Certificates are in PEM, and for addresses like `tls://HOST:PORT`. They are read once: a client
 * that lives longer than its certificate has to be made anew.
 */
export interface CredentialFiles {
  /**
   * A token, which every call carries; it is read again when it is older than ten seconds. It is
   * not sent to other machines without TLS.
   */
  tokenFile?: string;
  /** The authorities that the sidecar's certificate may be of, in place of those Node knows. */
  caFile?: string;
  /** The certificate that is shown to the sidecar. */
  certFile?: string;
  /** The key of that certificate. */
  keyFile?: string;
}

/** The files given, else those of the environment. */
export function chosen(files: CredentialFiles): CredentialFiles {
  const { env } = process;
  return {
    tokenFile: files.tokenFile || env["EMBERCACHE_TOKEN_FILE"],
    caFile: files.caFile || env["EMBERCACHE_CA_FILE"],
    certFile: files.certFile || env["EMBERCACHE_CERT_FILE"],
    keyFile: files.keyFile || env["EMBERCACHE_KEY_FILE"],
  };
}

/** How the sidecar there is connected to. */
export function channelCredentials(
  { isEncrypted }: Place,
  { caFile, certFile, keyFile }: CredentialFiles,
): ChannelCredentials {
  if (!certFile !== !keyFile) {
    throw new TypeError("give a certificate file and a key file, or neither");
  }
  if (!isEncrypted) {
    if (caFile || certFile) {
      throw new TypeError("certificates are for an address like tls://HOST:PORT");
    }
    return credentials.createInsecure();
  }
  const ca = caFile ? read(caFile, "CA file") : null;
  const key = keyFile ? read(keyFile, "key file") : null;
  const certificate = certFile ? read(certFile, "certificate file") : null;
  try {
    return credentials.createSsl(ca, key, certificate);
  } catch (cause) {
    const files = [caFile, certFile, keyFile].filter(Boolean).join(", ");
    throw new Error(`what is in ${files} is no use: ${(cause as Error).message}`, { cause });
  }
}

/** What every call carries. */
export class Token {
  #value: string;
  #readAt: number;

  constructor(
    place: Place,
    readonly file: string,
    readonly now: () => number = () => performance.now(),
  ) {
    if (!isPrivate(place)) {
      throw new TypeError(
        "a token must not cross a network unencrypted: write tls://HOST:PORT, or leave the token file out",
      );
    }
    this.#value = readToken(file);
    this.#readAt = now();
  }

  /** A copy of the metadata of a call that has the token, too. */
  addedTo(metadata: Metadata): Metadata {
    if (this.now() - this.#readAt > REREAD_MS) {
      this.#readAt = this.now();
      try {
        this.#value = readToken(this.file);
      } catch {
        // It is being replaced: the token that was read last will do meanwhile.
      }
    }
    const shown = metadata.clone();
    shown.set("authorization", `Bearer ${this.#value}`);
    return shown;
  }
}

function readToken(file: string): string {
  const [token] = read(file, "token file").toString("utf-8").split(/\s+/).filter(Boolean);
  if (!token || !/^[!-~]+$/.test(token)) {
    throw new Error(`the token file ${file} holds no token`);
  }
  return token;
}

function read(file: string, what: string): Buffer {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new Error(`the ${what} cannot be read: ${(cause as Error).message}`, { cause });
  }
}
