package io.embercache;

import io.embercache.v1.EmbedRequest;
import io.embercache.v1.EmbedResponse;
import io.embercache.v1.EmbedServiceGrpc;
import io.embercache.v1.EmbedStreamRequest;
import io.embercache.v1.EmbedStreamResponse;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollIoHandler;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollServerDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.unix.DomainSocketAddress;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;

/** A real gRPC server that fails the next calls as it is told, and answers the others. */
final class ScriptedSidecar extends EmbedServiceGrpc.EmbedServiceImplBase
    implements ServerInterceptor, AutoCloseable {
  private static final EventLoopGroup SOCKETS =
      new MultiThreadIoEventLoopGroup(1, EpollIoHandler.newFactory());

  final Queue<Status.Code> failures = new ConcurrentLinkedQueue<>();
  final AtomicInteger calls = new AtomicInteger();

  /** What each call carries. */
  final Queue<Metadata> seen = new ConcurrentLinkedQueue<>();

  /** What every answer says the model is called. */
  String model = "scripted";

  final int port;

  private final Server server;

  ScriptedSidecar() throws IOException {
    this(0);
  }

  ScriptedSidecar(int port) throws IOException {
    this(NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", port)));
  }

  private ScriptedSidecar(NettyServerBuilder builder) throws IOException {
    server = builder.addService(this).intercept(this).build().start();
    this.port = server.getPort();
  }

  static ScriptedSidecar onSocket(String path) throws IOException {
    return new ScriptedSidecar(
        NettyServerBuilder.forAddress(new DomainSocketAddress(path))
            .channelType(EpollServerDomainSocketChannel.class)
            .bossEventLoopGroup(SOCKETS)
            .workerEventLoopGroup(SOCKETS));
  }

  String address() {
    return "127.0.0.1:" + port;
  }

  @Override
  public <Q, A> ServerCall.Listener<Q> interceptCall(
      ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
    seen.add(headers);
    return next.startCall(call, headers);
  }

  @Override
  public void embed(EmbedRequest request, StreamObserver<EmbedResponse> answer) {
    calls.incrementAndGet();
    Status.Code failure = failures.poll();
    if (failure != null) {
      answer.onError(failure.toStatus().asRuntimeException());
      return;
    }
    answer.onNext(EmbedResponse.newBuilder().setModel(model).build());
    answer.onCompleted();
  }

  @Override
  public StreamObserver<EmbedStreamRequest> embedStream(
      StreamObserver<EmbedStreamResponse> answer) {
    calls.incrementAndGet();
    answer.onError(failures.remove().toStatus().asRuntimeException());
    return new StreamObserver<>() {
      @Override
      public void onNext(EmbedStreamRequest request) {}

      @Override
      public void onError(Throwable error) {}

      @Override
      public void onCompleted() {}
    };
  }

  /** Ends it; its port is free then. */
  @Override
  public void close() {
    server.shutdownNow();
    try {
      server.awaitTermination();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }
}
