package io.embercache;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.embercache.v1.EmbedRequest;
import io.embercache.v1.EmbedResponse;
import io.embercache.v1.EmbedServiceGrpc;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

class QuickReconnectTest {
  /** For so many vain looks gRPC by itself takes half a minute at least. */
  private static final int MANY = 8;

  private static final int HANG_GUARD_SECONDS = 20;

  @Test
  void aCallThatWaitsHasASidecarThatIsBackSoon() throws Exception {
    try (ServerSocket away = bind(0);
        Embercache embercache = Embercache.connect("127.0.0.1:" + away.getLocalPort())) {
      var waiting = embed(embercache, true);
      turnAway(away, MANY);
      assertAnswered(waiting, away.getLocalPort());
    }
  }

  @Test
  void aCallThatDoesNotWaitOutlivesARestart() throws Exception {
    ScriptedSidecar before = new ScriptedSidecar();
    try (Embercache embercache = Embercache.connect(before.address())) {
      assertEquals("scripted", embed(embercache, false).get().getModel());
      before.close();
      try (ServerSocket away = bind(before.port)) {
        var hopeful = embed(embercache, false);
        turnAway(away, 3); // which takes a second
        assertAnswered(hopeful, before.port);
      }
    }
  }

  /** What becomes of a sidecar that ends while it starts. */
  private static void turnAway(ServerSocket away, int times) throws Exception {
    away.setSoTimeout(HANG_GUARD_SECONDS * 1000);
    for (int i = 0; i < times; i++) {
      away.accept().close();
    }
    away.close();
  }

  private static void assertAnswered(CompletableFuture<EmbedResponse> call, int port)
      throws Exception {
    try (ScriptedSidecar back = new ScriptedSidecar(port)) {
      assertEquals(back.model, call.get().getModel());
    }
  }

  private static ServerSocket bind(int port) throws Exception {
    ServerSocket socket = new ServerSocket();
    socket.setReuseAddress(true);
    socket.bind(new InetSocketAddress("127.0.0.1", port));
    return socket;
  }

  private static CompletableFuture<EmbedResponse> embed(Embercache embercache, boolean waits) {
    var stub =
        EmbedServiceGrpc.newBlockingStub(embercache.channel())
            .withDeadlineAfter(HANG_GUARD_SECONDS, TimeUnit.SECONDS);
    var client = waits ? stub.withWaitForReady() : stub;
    return CompletableFuture.supplyAsync(() -> client.embed(EmbedRequest.getDefaultInstance()));
  }
}
