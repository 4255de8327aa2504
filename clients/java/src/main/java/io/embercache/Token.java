package io.embercache;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import java.util.function.LongSupplier;

/** The token in a file, which every call carries. */
final class Token implements ClientInterceptor {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final long REREAD_NANOS = TimeUnit.SECONDS.toNanos(10);

  private final Path file;
  private final LongSupplier clock;

  private String value;
  private long readAt;

  Token(Path file, LongSupplier clock) {
    this.file = file;
    this.clock = clock;
    value = read(file);
    readAt = clock.getAsLong();
  }

  @Override
  public <Q, A> ClientCall<Q, A> interceptCall(
      MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
    return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
      @Override
      public void start(Listener<A> listener, Metadata headers) {
        headers.discardAll(AUTHORIZATION);
        headers.put(AUTHORIZATION, "Bearer " + value());
        super.start(listener, headers);
      }
    };
  }

  /** The token; it is read again when it is older than ten seconds. */
  synchronized String value() {
    long now = clock.getAsLong();
    if (now - readAt > REREAD_NANOS) {
      readAt = now;
      try {
        value = read(file);
      } catch (IllegalArgumentException beingReplaced) {
        // The token that was read last will do meanwhile.
      }
    }
    return value;
  }

  private static String read(Path file) {
    String text;
    try {
      text = new String(Files.readAllBytes(file), StandardCharsets.US_ASCII);
    } catch (IOException error) {
      throw new IllegalArgumentException("the token file cannot be read: " + error, error);
    }
    String first = text.trim().split("\\s", 2)[0];
    if (!first.matches("[!-~]+")) {
      throw new IllegalArgumentException("the token file " + file + " holds no token");
    }
    return first;
  }
}
