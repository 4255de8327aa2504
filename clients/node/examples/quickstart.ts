import { connect, EmbedRequest, vectors } from "embercache";

const client = connect(); // EMBERCACHE_ADDRESS, else 127.0.0.1:50551
const request = EmbedRequest.create({ inputs: [{ text: "a text" }, { text: "another" }] });
const response = await client.embed(request, { deadline: Date.now() + 10_000 });
console.log(vectors(response)); // a Float32Array for each
client.close();
