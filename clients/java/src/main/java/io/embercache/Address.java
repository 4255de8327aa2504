package io.embercache;

import io.grpc.netty.shaded.io.netty.util.NetUtil;
import java.net.InetAddress;
import java.net.URLEncoder;
import java.net.UnknownHostException;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Where the sidecar is. */
final class Address {
  static final String VARIABLE = "EMBERCACHE_ADDRESS";

  private static final String DEFAULT = "127.0.0.1:50551";
  private static final String TLS = "tls://";
  private static final Pattern HOST_AND_PORT =
      Pattern.compile("(?:\\[[0-9A-Fa-f:.]+\\]|[^\\s:/?#%@\\[\\]]+):([0-9]{1,5})");
  private static final Pattern SOCKET = Pattern.compile("unix:(?://(?=/))?(/?[^/].*)");

  /** As gRPC takes it. */
  final String target;

  final boolean isEncrypted;

  private Address(String target, boolean isEncrypted) {
    this.target = target;
    this.isEncrypted = isEncrypted;
  }

  /**
   * The address given, else that of the environment, else the default.
   *
   * @throws IllegalArgumentException if it is neither {@code HOST:PORT}, perhaps behind {@code
   *     tls://}, nor a Unix socket's
   */
  static Address of(String given, String environment) {
    boolean fromCaller = given != null && !given.isEmpty();
    boolean fromEnvironment = !fromCaller && environment != null && !environment.isEmpty();
    String address = fromCaller ? given : fromEnvironment ? environment : DEFAULT;
    Matcher socket = SOCKET.matcher(address);
    if (socket.matches()) {
      return new Address(socketTarget(socket.group(1)), false);
    }
    boolean isEncrypted = address.startsWith(TLS);
    Matcher host = HOST_AND_PORT.matcher(isEncrypted ? address.substring(TLS.length()) : address);
    if (host.matches() && isPort(Integer.parseInt(host.group(1)))) {
      return new Address(host.group(), isEncrypted);
    }
    throw new IllegalArgumentException(
        String.format(
            "%s is \"%s\"; write HOST:PORT (1 to 65535), tls://HOST:PORT for TLS,"
                + " unix:///absolute/path or unix:path",
            fromCaller ? "the address" : VARIABLE, address));
  }

  boolean isSocket() {
    return target.startsWith("unix:");
  }

  /** Whether nobody else can read what is sent there. */
  boolean isPrivate() {
    return isEncrypted || isSocket() || isLoopback();
  }

  private boolean isLoopback() {
    String host = target.substring(0, target.lastIndexOf(':'));
    byte[] ip = NetUtil.createByteArrayFromIpAddressString(host);
    try {
      return host.equals("localhost")
          || ip != null && InetAddress.getByAddress(ip).isLoopbackAddress();
    } catch (UnknownHostException impossible) {
      throw new AssertionError(impossible);
    }
  }

  private static boolean isPort(int number) {
    return number > 0 && number < 1 << 16;
  }

  private static String socketTarget(String path) {
    // A Path of Java does not have every name in every locale.
    String absolute = path.startsWith("/") ? path : System.getProperty("user.dir") + "/" + path;
    String escaped = URLEncoder.encode(absolute, StandardCharsets.UTF_8);
    return "unix://" + escaped.replace("%2F", "/").replace("+", "%20");
  }
}
