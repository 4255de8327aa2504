import { connect, vectors } from "embercache";

const client = connect(); // EMBERCACHE_ADDRESS, else 127.0.0.1:50551
const response = await client.embed(
  { inputs: [{ text: "a text" }, { text: "another" }] },
  { deadline: Date.now() + 10_000 },
);
console.log(vectors(response)); // a Float32Array for each
client.close();
