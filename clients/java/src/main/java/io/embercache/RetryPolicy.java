package io.embercache;

import static java.util.Map.entry;

import java.util.List;
import java.util.Map;

/** Which calls gRPC repeats, when and how often. */
final class RetryPolicy {
  /**
   * All of these calls can be repeated without harm. EmbedStream is not among them: only its caller
   * knows what was answered.
   */
  private static final List<Map<String, String>> RETRIED =
      List.of(
          Map.of("service", "embercache.v1.EmbedService", "method", "Embed"),
          Map.of("service", "embercache.v1.EmbedService", "method", "ListModels"),
          Map.of("service", "embercache.v1.SearchService"),
          Map.of("service", "embercache.v1.GenerateService"),
          Map.of("service", "embercache.v1.CacheService"));

  /**
   * {@code UNAVAILABLE} and {@code RESOURCE_EXHAUSTED} are what the sidecar answers when the same
   * request may succeed a little later, and what gRPC says of a sidecar that restarts; a server
   * that ends may also cancel a call that has only just reached it. Five attempts are the most that
   * gRPC allows. Their delays are 0.3, 0.9, 2 and 2 seconds, because a sidecar that was killed needs
   * a second or two to start again. Other languages begin with 0.1; but grpc-java finds out whether
   * there is a connection for an attempt before its delay, so that the last of them does not count.
   */
  private static final Map<String, ?> POLICY =
      Map.ofEntries(
          entry("maxAttempts", 5.0),
          entry("initialBackoff", "0.3s"),
          entry("maxBackoff", "2s"),
          entry("backoffMultiplier", 3.0),
          entry("retryableStatusCodes", List.of("UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED")));

  /** In the form that gRPC wants it: numbers are of type double. */
  static final Map<String, ?> SERVICE_CONFIG =
      Map.of("methodConfig", List.of(Map.of("name", RETRIED, "retryPolicy", POLICY)));

  private RetryPolicy() {}
}
