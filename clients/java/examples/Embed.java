import io.embercache.Embercache;
import io.embercache.Vectors;
import io.embercache.v1.EmbedRequest;
import io.embercache.v1.EmbedResponse;
import io.embercache.v1.EmbedServiceGrpc;
import io.embercache.v1.Tier;
import java.security.MessageDigest;
import java.util.Locale;
import java.util.concurrent.TimeUnit;

/**
 * Embeds the texts of its arguments and prints, for each, what answered (run it twice: the second
 * time it is the cache), a digest of the vector and its beginning.
 *
 * <p>EMBERCACHE_ADDRESS says where the sidecar is, if not at 127.0.0.1:50551.
 */
public class Embed {
  public static void main(String[] texts) throws Exception {
    EmbedResponse response;
    try (Embercache embercache = Embercache.connect()) {
      response =
          EmbedServiceGrpc.newBlockingStub(embercache.channel())
              .withDeadlineAfter(10, TimeUnit.SECONDS)
              .embed(EmbedRequest.newBuilder().addAllInputs(Embercache.texts(texts)).build());
    }
    float[][] vectors = Vectors.of(response);
    for (int i = 0; i < vectors.length; i++) {
      System.out.printf(
          Locale.ROOT,
          "%s %s %.6f %.6f %.6f%n",
          name(response.getEmbeddings(i).getTier()),
          digest(response.getEmbeddings(i).getVector().toByteArray()),
          vectors[i][0],
          vectors[i][1],
          vectors[i][2]);
    }
  }

  private static String name(Tier tier) {
    return tier.name().substring("TIER_".length()).toLowerCase(Locale.ROOT);
  }

  private static String digest(byte[] bytes) throws Exception {
    StringBuilder hex = new StringBuilder();
    for (byte each : MessageDigest.getInstance("SHA-256").digest(bytes)) {
      hex.append(String.format("%02x", each));
    }
    return hex.toString();
  }
}
