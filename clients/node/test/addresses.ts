import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const table = readFileSync(new URL("../../../testdata/addresses.txt", import.meta.url), "utf-8");

/** What the clients of other languages are tested with, too. */
export function addresses(kind: "accept" | "refuse" | "socket" | "private" | "public"): string[] {
  const found = table.split("\n").filter((line) => line.startsWith(`${kind} `));
  assert.ok(found.length);
  return found.map((line) => line.slice(kind.length + 1));
}
