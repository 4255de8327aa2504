/**
 * Prints the answer to the prompt of its arguments piece by piece, as it comes, and then what
 * answered.
 *
 * EMBERCACHE_ADDRESS says where the sidecar is, if not at 127.0.0.1:50551.
 */
import { connect, FinishReason, type GenerateSummary, Tier } from "embercache";

const client = connect();
const request = { text: process.argv.slice(2).join(" "), sampling: { maxTokens: 16 } };
let summary: GenerateSummary | undefined;
for await (const piece of client.generateStream(request, { deadline: Date.now() + 60_000 })) {
  process.stdout.write(piece.text);
  summary = piece.summary; // only the last piece has one
}
if (!summary) {
  throw new Error("the stream was cut short");
}
console.log(`\n${Tier[summary.tier]} ${FinishReason[summary.finishReason]}`);
client.close();
