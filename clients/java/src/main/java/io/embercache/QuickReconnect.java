package io.embercache;

import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;

/**
 * Looks for a sidecar that went away twice a second.
 *
 * <p>A sidecar that restarts is back within seconds. gRPC would wait for up to two minutes before
 * it looks again, and has no setting for that.
 */
final class QuickReconnect {
  /** The thread of the timer runs what is due: it takes no time. */
  private static final Executor LATER =
      CompletableFuture.delayedExecutor(500, TimeUnit.MILLISECONDS, Runnable::run);

  private final ManagedChannel connection;

  private QuickReconnect(ManagedChannel connection) {
    this.connection = connection;
  }

  /** Does so until the connection is shut down. */
  static void watch(ManagedChannel connection) {
    new QuickReconnect(connection).watch();
  }

  private void watch() {
    ConnectivityState state = connection.getState(false);
    if (state == ConnectivityState.TRANSIENT_FAILURE) {
      LATER.execute(this::look);
    } else if (state != ConnectivityState.SHUTDOWN) {
      connection.notifyWhenStateChanged(state, this::watch);
    }
  }

  private void look() {
    connection.resetConnectBackoff();
    watch();
  }
}
