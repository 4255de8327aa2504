package io.embercache;

import io.embercache.v1.Input;
import io.grpc.Channel;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;

/**
 * A connection to the sidecar, for the stubs of {@link io.embercache.v1}.
 *
 * <p>Make one and keep it: it can be shared between threads. Nothing is connected before the first
 * call. A call that fails with {@code UNAVAILABLE} or {@code RESOURCE_EXHAUSTED} has been tried
 * five times, within about 5 seconds; a stream is retried until its first message. Calls have no
 * deadline but the one that is given to their stub.
 */
public final class Embercache implements AutoCloseable {
  private static final int MAX_MESSAGE_BYTES = 64 << 20;

  private final ManagedChannel connection;

  private Embercache(ManagedChannel connection) {
    this.connection = connection;
    QuickReconnect.watch(connection);
  }

  /**
   * Connects to the sidecar at the address in {@code EMBERCACHE_ADDRESS}, else at {@code
   * 127.0.0.1:50551}.
   *
   * @throws IllegalArgumentException as {@link #connect(String)} does
   */
  public static Embercache connect() {
    return connect(null);
  }

  /**
   * Connects to the sidecar at that address; null or empty for that of {@link #connect()}.
   *
   * @param address {@code HOST:PORT}, {@code tls://HOST:PORT}, {@code unix:PATH} or {@code
   *     unix:///PATH}; Unix sockets need Linux
   * @throws IllegalArgumentException if the address is none of these, or a file that the
   *     environment names cannot be used
   */
  public static Embercache connect(String address) {
    return connect(address, new CredentialFiles());
  }

  /**
   * Connects to the sidecar at that address, with a token or certificates.
   *
   * @param address as {@link #connect(String)} takes it
   * @throws IllegalArgumentException if the address is none, or a file cannot be read, makes no
   *     sense or is not for that address
   */
  public static Embercache connect(String address, CredentialFiles files) {
    return connect(
        Address.of(address, System.getenv(Address.VARIABLE)), files.orOf(System.getenv()));
  }

  static Embercache connect(Address address, CredentialFiles files) {
    ManagedChannelBuilder<?> builder =
        Grpc.newChannelBuilder(address.target, files.channelFor(address))
            .defaultServiceConfig(RetryPolicy.SERVICE_CONFIG)
            // gRPC forgets requests larger than this, and then cannot retry them.
            .perRpcBufferLimit(MAX_MESSAGE_BYTES)
            .retryBufferSize(4L * MAX_MESSAGE_BYTES)
            .maxInboundMessageSize(MAX_MESSAGE_BYTES)
            // A sidecar is next door: a proxy in the environment is not meant for it.
            .proxyDetector(server -> null);
    files.tokenFor(address).ifPresent(builder::intercept);
    if (address.isSocket() && builder instanceof NettyChannelBuilder) {
      // gRPC sets it for every socket, and netty warns that Unix sockets do not have it.
      ((NettyChannelBuilder) builder).withOption(ChannelOption.SO_KEEPALIVE, null);
    }
    return new Embercache(builder.build());
  }

  /** What stubs are made of: {@code EmbedServiceGrpc.newBlockingStub(embercache.channel())}. */
  public Channel channel() {
    return connection;
  }

  /** Inputs of an {@link io.embercache.v1.EmbedRequest}, one for each text. */
  public static List<Input> texts(String... texts) {
    return Arrays.stream(texts)
        .map(text -> Input.newBuilder().setText(text).build())
        .collect(Collectors.toList());
  }

  /** Cancels the calls under way; those to come fail. */
  @Override
  public void close() {
    connection.shutdownNow();
  }
}
