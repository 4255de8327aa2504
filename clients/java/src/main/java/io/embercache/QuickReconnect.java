package io.embercache;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Looks for a sidecar that went away whenever it is called, but at most twice a second.
 *
 * <p>A sidecar that restarts is back within seconds. gRPC would wait for up to two minutes before
 * it looks again, and has no setting for that.
 */
final class QuickReconnect implements ClientInterceptor {
  private static final long INTERVAL_NANOS = 500_000_000;

  private final ManagedChannel connection;
  private final AtomicLong last = new AtomicLong(System.nanoTime() - INTERVAL_NANOS);

  QuickReconnect(ManagedChannel connection) {
    this.connection = connection;
  }

  @Override
  public <A, B> ClientCall<A, B> interceptCall(
      MethodDescriptor<A, B> method, CallOptions options, Channel next) {
    if (connection.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
      long now = System.nanoTime();
      long before = last.get();
      if (now - before >= INTERVAL_NANOS && last.compareAndSet(before, now)) {
        connection.resetConnectBackoff();
      }
    }
    return next.newCall(method, options);
  }
}
