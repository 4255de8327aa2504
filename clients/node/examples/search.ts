/**
 * Stores a few documents and prints those nearest to the question of its arguments, best first.
 *
 * EMBERCACHE_ADDRESS says where the sidecar is, if not at 127.0.0.1:50551.
 */
import { connect } from "embercache";

const collection = "examples";
const documents = {
  ember: "An ember is a piece of glowing coal.",
  cache: "A cache keeps answers so that they need not be computed again.",
  sidecar: "The sidecar runs beside the application in its pod.",
};

const client = connect();

const stored = await client.upsert(
  {
    collection,
    documents: Object.entries(documents).map(([id, content]) => ({ id, chunks: [{ content }] })),
  },
  { deadline: Date.now() + 10_000 },
);
for (const { error } of stored.documents) {
  if (error) {
    throw new Error(`a document is not stored: ${error.message}`);
  }
}

const found = await client.search(
  { text: process.argv.slice(2).join(" "), collection, topK: 2 },
  { deadline: Date.now() + 10_000 },
);
for (const { score, id, content } of found.results) {
  console.log(`${score.toFixed(4)} ${id}: ${content}`);
}

client.close();
