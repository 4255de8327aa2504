package io.embercache;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.embercache.v1.EmbedServiceGrpc;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

class QuickReconnectTest {
  @Test
  void aCallLooksForASidecarThatIsAway() {
    Connection connection = new Connection(ConnectivityState.TRANSIENT_FAILURE);
    connection.call(new QuickReconnect(connection));
    assertEquals(1, connection.resets);
  }

  @Test
  void manyCallsLookForItNotMoreOftenThanOne() {
    Connection connection = new Connection(ConnectivityState.TRANSIENT_FAILURE);
    QuickReconnect reconnect = new QuickReconnect(connection);
    for (int i = 0; i < 100; i++) {
      connection.call(reconnect);
    }
    assertEquals(1, connection.resets);
  }

  @Test
  void aSidecarThatIsThereIsNotLookedFor() {
    Connection connection = new Connection(ConnectivityState.READY);
    connection.call(new QuickReconnect(connection));
    assertEquals(0, connection.resets);
  }

  /** Counts how often it is told to connect at once. */
  private static final class Connection extends ManagedChannel {
    private final ConnectivityState state;
    private int resets;

    Connection(ConnectivityState state) {
      this.state = state;
    }

    void call(QuickReconnect reconnect) {
      reconnect.interceptCall(EmbedServiceGrpc.getEmbedMethod(), CallOptions.DEFAULT, this);
    }

    @Override
    public ConnectivityState getState(boolean requestConnection) {
      return state;
    }

    @Override
    public void resetConnectBackoff() {
      resets++;
    }

    @Override
    public <A, B> ClientCall<A, B> newCall(MethodDescriptor<A, B> method, CallOptions options) {
      return null;
    }

    @Override
    public String authority() {
      return "";
    }

    @Override
    public ManagedChannel shutdown() {
      return this;
    }

    @Override
    public ManagedChannel shutdownNow() {
      return this;
    }

    @Override
    public boolean isShutdown() {
      return false;
    }

    @Override
    public boolean isTerminated() {
      return false;
    }

    @Override
    public boolean awaitTermination(long timeout, TimeUnit unit) {
      return true;
    }
  }
}
