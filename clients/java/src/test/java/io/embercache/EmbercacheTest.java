package io.embercache;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.embercache.v1.EmbedRequest;
import io.embercache.v1.EmbedResponse;
import io.embercache.v1.EmbedServiceGrpc;
import io.embercache.v1.EmbedStreamResponse;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.StreamObserver;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class EmbercacheTest {
  private static final int HANG_GUARD_SECONDS = 60;
  private static final int ATTEMPTS = 5;

  private ScriptedSidecar sidecar;
  private Embercache embercache;

  @BeforeEach
  void connect() throws Exception {
    sidecar = new ScriptedSidecar();
    embercache = Embercache.connect(sidecar.address());
  }

  @AfterEach
  void close() {
    embercache.close();
    sidecar.close();
  }

  @ParameterizedTest
  @EnumSource(names = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"})
  void aCallThatMaySucceedALittleLaterIsRepeated(Status.Code failure) {
    sidecar.failures.addAll(List.of(failure, failure));
    assertEquals("scripted", embed().getModel());
    assertEquals(3, sidecar.calls.get());
  }

  @ParameterizedTest
  @EnumSource(
      names = {
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "FAILED_PRECONDITION",
        "INTERNAL",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED"
      })
  void aCallThatWouldFailAgainIsNotRepeated(Status.Code failure) {
    sidecar.failures.add(failure);
    assertEquals(failure, failureOf(this::embed));
    assertEquals(1, sidecar.calls.get());
  }

  @Test
  void fiveAttemptsAreTheMost() {
    sidecar.failures.addAll(Collections.nCopies(2 * ATTEMPTS, Status.Code.UNAVAILABLE));
    assertEquals(Status.Code.UNAVAILABLE, failureOf(this::embed));
    assertEquals(ATTEMPTS, sidecar.calls.get());
  }

  @Test
  void aStreamOfBatchesIsLeftToItsCaller() throws Exception {
    sidecar.failures.add(Status.Code.UNAVAILABLE);
    assertEquals(Status.Code.UNAVAILABLE, failureOfStream());
    assertEquals(1, sidecar.calls.get());
  }

  @Test
  void anAnswerLargerThanGrpcsOwnLimitIsTaken() {
    sidecar.model = "m".repeat(5 << 20);
    assertEquals(sidecar.model, embed().getModel());
  }

  @Test
  void aLargeRequestIsRepeatedToo() {
    sidecar.failures.add(Status.Code.UNAVAILABLE);
    EmbedRequest large =
        EmbedRequest.newBuilder().addAllInputs(Embercache.texts("t".repeat(3 << 20))).build();
    assertEquals("scripted", embed(large).getModel());
  }

  @Test
  void nothingIsSentAfterClose() {
    embercache.close();
    assertEquals(Status.Code.UNAVAILABLE, failureOf(this::embed));
    assertEquals(0, sidecar.calls.get());
  }

  private EmbedResponse embed() {
    return embed(EmbedRequest.getDefaultInstance());
  }

  private EmbedResponse embed(EmbedRequest request) {
    return EmbedServiceGrpc.newBlockingStub(embercache.channel())
        .withDeadlineAfter(HANG_GUARD_SECONDS, TimeUnit.SECONDS)
        .embed(request);
  }

  private static Status.Code failureOf(Runnable call) {
    return assertThrows(StatusRuntimeException.class, call::run).getStatus().getCode();
  }

  private Status.Code failureOfStream() throws Exception {
    CompletableFuture<Void> ended = new CompletableFuture<>();
    EmbedServiceGrpc.newStub(embercache.channel())
        .embedStream(
            new StreamObserver<>() {
              @Override
              public void onNext(EmbedStreamResponse response) {}

              @Override
              public void onError(Throwable error) {
                ended.completeExceptionally(error);
              }

              @Override
              public void onCompleted() {
                ended.complete(null);
              }
            });
    ExecutionException failure =
        assertThrows(
            ExecutionException.class, () -> ended.get(HANG_GUARD_SECONDS, TimeUnit.SECONDS));
    return Status.fromThrowable(failure.getCause()).getCode();
  }
}
