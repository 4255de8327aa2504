package io.embercache;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.embercache.v1.EmbedRequest;
import io.embercache.v1.EmbedServiceGrpc;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

class AddressTest {
  private static final int HANG_GUARD_SECONDS = 60;

  @Test
  void theAddressGivenWinsOverTheEnvironmentAndThatOverTheDefault() {
    assertEquals("given:1", target("given:1", "environment:2"));
    assertEquals("environment:2", target(null, "environment:2"));
    assertEquals("environment:2", target("", "environment:2"));
    assertEquals("127.0.0.1:50551", target(null, null));
    assertEquals("127.0.0.1:50551", target(null, ""));
  }

  @ParameterizedTest
  @MethodSource("accept")
  void whatIsAnAddressIsTaken(String address) {
    Embercache.connect(address).close();
    if (!address.startsWith("unix:")) {
      Address taken = Address.of(address, null);
      assertEquals(address, (taken.isEncrypted ? "tls://" : "") + taken.target);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"unix:/run/a b/100%.sock", "unix:///run/a b/100%.sock"})
  void thePathOfASocketIsEscaped(String address) {
    assertEquals("unix:///run/a%20b/100%25.sock", target(address, null));
  }

  @Test
  void aRelativePathOfASocketIsFromTheWorkingFolder() {
    assertEquals("unix://" + Path.of("a.sock").toAbsolutePath(), target("unix:a.sock", null));
  }

  @ParameterizedTest
  @MethodSource("socket")
  void aSocketMayHaveAnyName(String name, @TempDir Path folder) throws Exception {
    String path = folder + "/" + name;
    Path here = Path.of("").toAbsolutePath();
    String relative = here.relativize(folder) + "/" + name;
    try (ScriptedSidecar sidecar = ScriptedSidecar.onSocket(path)) {
      for (String address : List.of("unix:" + path, "unix://" + path, "unix:" + relative)) {
        try (Embercache embercache = Embercache.connect(address)) {
          EmbedServiceGrpc.newBlockingStub(embercache.channel())
              .withDeadlineAfter(HANG_GUARD_SECONDS, TimeUnit.SECONDS)
              .embed(EmbedRequest.getDefaultInstance());
        }
      }
      assertEquals(3, sidecar.calls.get());
    }
  }

  @ParameterizedTest
  @MethodSource("refuse")
  void anythingElseIsRefusedWithAMessageThatSaysWhatToWrite(String address) {
    String message = refusal(address, null);
    assertTrue(message.contains("the address is \"" + address + "\"; write HOST:PORT (1 to"), message);
  }

  @Test
  void theMessageNamesTheVariableIfThatIsWhereTheAddressIsFrom() {
    String message = refusal(null, "localhost");
    assertTrue(message.startsWith("EMBERCACHE_ADDRESS is \"localhost\""), message);
  }

  @Test
  void aHostWithAnUnderscoreIsNoneForGrpc() {
    assertThrows(IllegalArgumentException.class, () -> Embercache.connect("a_b:1"));
  }

  static List<String> accept() throws IOException {
    List<String> addresses = table("accept ");
    addresses.removeIf(address -> address.contains("_"));
    return addresses;
  }

  static List<String> refuse() throws IOException {
    return table("refuse ");
  }

  static List<String> socket() throws IOException {
    return table("socket ");
  }

  private static String target(String given, String environment) {
    return Address.of(given, environment).target;
  }

  /** What the clients of other languages are tested with, too. */
  static List<String> table(String kind) throws IOException {
    return Files.readAllLines(Path.of("../testdata/addresses.txt")).stream()
        .filter(line -> line.startsWith(kind))
        .map(line -> line.substring(kind.length()))
        .collect(Collectors.toList());
  }

  private static String refusal(String given, String environment) {
    return assertThrows(IllegalArgumentException.class, () -> Address.of(given, environment))
        .getMessage();
  }
}
