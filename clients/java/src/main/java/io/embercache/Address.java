package io.embercache;

import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Where the sidecar is. */
final class Address {
  static final String VARIABLE = "EMBERCACHE_ADDRESS";

  private static final String DEFAULT = "127.0.0.1:50551";
  private static final Pattern HOST_AND_PORT =
      Pattern.compile("(?:\\[[0-9A-Fa-f:.]+\\]|[^\\s:/?#%@\\[\\]]+):([0-9]{1,5})");
  private static final Pattern SOCKET = Pattern.compile("unix:(?://(?=/))?(/?[^/].*)");

  private Address() {}

  /**
   * The target for gRPC: the address given, else that of the environment, else the default.
   *
   * @throws IllegalArgumentException if it is neither {@code HOST:PORT} nor a Unix socket's
   */
  static String target(String given, String environment) {
    boolean fromCaller = given != null && !given.isEmpty();
    boolean fromEnvironment = !fromCaller && environment != null && !environment.isEmpty();
    String address = fromCaller ? given : fromEnvironment ? environment : DEFAULT;
    Matcher socket = SOCKET.matcher(address);
    if (socket.matches()) {
      return socketTarget(socket.group(1));
    }
    Matcher host = HOST_AND_PORT.matcher(address);
    if (host.matches() && isPort(Integer.parseInt(host.group(1)))) {
      return address;
    }
    throw new IllegalArgumentException(
        String.format(
            "%s is \"%s\"; write HOST:PORT (1 to 65535), unix:///absolute/path or unix:path",
            fromCaller ? "the address" : VARIABLE, address));
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
