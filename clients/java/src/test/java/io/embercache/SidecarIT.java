package io.embercache;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;

import io.embercache.v1.Chunk;
import io.embercache.v1.DeleteRequest;
import io.embercache.v1.Document;
import io.embercache.v1.EmbedRequest;
import io.embercache.v1.EmbedResponse;
import io.embercache.v1.EmbedServiceGrpc;
import io.embercache.v1.Encoding;
import io.embercache.v1.GenerateRequest;
import io.embercache.v1.GenerateServiceGrpc;
import io.embercache.v1.GenerateStreamResponse;
import io.embercache.v1.GenerateSummary;
import io.embercache.v1.Result;
import io.embercache.v1.Sampling;
import io.embercache.v1.SearchRequest;
import io.embercache.v1.SearchResponse;
import io.embercache.v1.SearchServiceGrpc;
import io.embercache.v1.Tier;
import io.embercache.v1.Truncation;
import io.embercache.v1.UpsertRequest;
import io.grpc.StatusRuntimeException;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HashSet;
import java.util.Iterator;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;

/**
 * Against the real sidecar at EMBERCACHE_ADDRESS, with the models minilm and smollm2-135m: {@code
 * mvn test -Dtest=SidecarIT}.
 */
class SidecarIT {
  private static Embercache embercache;

  @BeforeAll
  static void connect() {
    embercache = Embercache.connect();
  }

  @AfterAll
  static void close() {
    embercache.close();
  }

  /**
   * EMBERCACHE_TEST_EXPECTED names a file of lines {@code ENCODING SHA256 TEXT}; the digest is of
   * the decoded vector as float32 in little-endian order.
   */
  @Test
  @EnabledIfEnvironmentVariable(named = "EMBERCACHE_TEST_EXPECTED", matches = ".+")
  void everyEncodingIsDecodedToTheBitsThatAreExpected() throws Exception {
    Set<String> encodings = new HashSet<>();
    for (String line : Files.readAllLines(Path.of(System.getenv("EMBERCACHE_TEST_EXPECTED")))) {
      String[] part = line.split(" ", 3);
      EmbedRequest request =
          EmbedRequest.newBuilder()
              .addAllInputs(Embercache.texts(part[2]))
              .setEncoding(Encoding.valueOf(part[0]))
              .build();
      EmbedResponse response =
          EmbedServiceGrpc.newBlockingStub(embercache.channel())
              .withDeadlineAfter(30, TimeUnit.SECONDS)
              .embed(request);
      assertEquals(part[1], digest(Vectors.of(response)[0]), line);
      encodings.add(part[0]);
    }
    assertEquals(3, encodings.size());
  }

  private static String digest(float[] vector) throws Exception {
    ByteBuffer bytes =
        ByteBuffer.allocate(Float.BYTES * vector.length).order(ByteOrder.LITTLE_ENDIAN);
    bytes.asFloatBuffer().put(vector);
    byte[] digest = MessageDigest.getInstance("SHA-256").digest(bytes.array());
    return String.format("%064x", new BigInteger(1, digest));
  }

  @Test
  void anInputThatFailsDoesNotSpoilTheOthers() {
    EmbedRequest request =
        EmbedRequest.newBuilder()
            .addAllInputs(Embercache.texts("a text", "long ".repeat(3000)))
            .setTruncation(Truncation.TRUNCATION_ERROR)
            .build();
    var client =
        EmbedServiceGrpc.newBlockingStub(embercache.channel())
            .withDeadlineAfter(10, TimeUnit.SECONDS);
    float[][] vectors = {};
    try {
      vectors = Vectors.of(client.embed(request));
    } catch (PartialFailureException failure) {
      vectors = failure.vectors(); // null for each input that failed
      failure.errors().forEach((index, error) -> System.err.println(index + ": " + error));
    } catch (StatusRuntimeException failure) {
      System.err.println("the call failed as a whole: " + failure.getMessage());
    }
    assertEquals(2, vectors.length);
    assertNotNull(vectors[0]);
    assertNull(vectors[1]);
  }

  @Test
  void documentsAreFoundByMeaningAndTheAnswerIsCached() {
    SearchServiceGrpc.SearchServiceBlockingStub client =
        SearchServiceGrpc.newBlockingStub(embercache.channel())
            .withDeadlineAfter(30, TimeUnit.SECONDS);
    UpsertRequest documents =
        UpsertRequest.newBuilder()
            .setCollection("java")
            .addDocuments(document("coal", "An ember is a piece of glowing coal."))
            .addDocuments(document("cache", "A cache keeps answers for later."))
            .build();
    client.upsert(documents);

    SearchResponse found = search(client);
    assertEquals("coal", found.getResults(0).getId());
    assertEquals(Tier.TIER_COMPUTED, found.getTier());
    assertEquals(Tier.TIER_HOT, search(client).getTier());

    client.delete(
        DeleteRequest.newBuilder().setCollection("java").addIds("coal").addIds("cache").build());
    assertEquals(0, search(client).getResultsCount());
  }

  private static SearchResponse search(SearchServiceGrpc.SearchServiceBlockingStub client) {
    SearchRequest request =
        SearchRequest.newBuilder().setCollection("java").setText("what glows?").setTopK(1).build();
    SearchResponse found = client.search(request);
    for (Result result : found.getResultsList()) {
      System.out.println(result.getScore() + " " + result.getId() + " " + result.getContent());
    }
    return found;
  }

  @Test
  void aTextComesInPiecesThatEndWithASummaryAndIsCachedWhole() {
    assertEquals(8, generate().getUsage().getCompletionTokens());
    assertEquals(Tier.TIER_HOT, generate().getTier());
  }

  private static GenerateSummary generate() {
    GenerateRequest request =
        GenerateRequest.newBuilder()
            .setText("Embers glow because")
            .setSampling(Sampling.newBuilder().setMaxTokens(8))
            .build();
    Iterator<GenerateStreamResponse> pieces =
        GenerateServiceGrpc.newBlockingStub(embercache.channel())
            .withDeadlineAfter(60, TimeUnit.SECONDS)
            .generateStream(request);
    GenerateStreamResponse piece = null;
    while (pieces.hasNext()) {
      piece = pieces.next();
      System.out.print(piece.getText());
    }
    return piece.getSummary(); // in the last message
  }

  private static Document document(String id, String content) {
    return Document.newBuilder()
        .setId(id)
        .addChunks(Chunk.newBuilder().setContent(content))
        .build();
  }
}
