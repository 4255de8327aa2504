/**
 * Embeds the texts of its arguments and prints, for each, what answered (run it twice: the second
 * time it is the cache), a digest of the vector and its beginning.
 *
 * EMBERCACHE_ADDRESS says where the sidecar is, if not at 127.0.0.1:50551.
 */
import { createHash } from "node:crypto";

import { connect, Tier, vectors } from "embercache";

const client = connect();
const inputs = process.argv.slice(2).map((text) => ({ text }));
const response = await client.embed({ inputs }, { deadline: Date.now() + 10_000 });
for (const [i, vector] of vectors(response).entries()) {
  const embedding = response.embeddings[i]!;
  const tier = Tier[embedding.tier].replace("TIER_", "").toLowerCase();
  const digest = createHash("sha256").update(embedding.vector).digest("hex");
  const start = Array.from(vector.subarray(0, 3), (element) => element.toFixed(6));
  console.log(tier, digest, ...start);
}
client.close();
