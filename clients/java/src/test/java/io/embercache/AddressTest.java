package io.embercache;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class AddressTest {
  @Test
  void theAddressGivenWinsOverTheEnvironmentAndThatOverTheDefault() {
    assertEquals("given:1", Address.target("given:1", "environment:2"));
    assertEquals("environment:2", Address.target(null, "environment:2"));
    assertEquals("environment:2", Address.target("", "environment:2"));
    assertEquals("127.0.0.1:50551", Address.target(null, null));
    assertEquals("127.0.0.1:50551", Address.target(null, ""));
  }

  @ParameterizedTest
  @ValueSource(strings = {"localhost:50551", "10.0.0.1:80", "[::1]:50551", "pool.namespace.svc:1"})
  void aHostAndItsPortAreTakenAsTheyAre(String address) {
    assertEquals(address, Address.target(address, null));
  }

  @ParameterizedTest
  @ValueSource(strings = {"unix:/run/a b/100%.sock", "unix:///run/a b/100%.sock"})
  void thePathOfASocketIsEscaped(String address) {
    assertEquals("unix:///run/a%20b/100%25.sock", Address.target(address, null));
  }

  @Test
  void aRelativePathOfASocketIsFromTheWorkingFolder() {
    assertEquals(
        "unix://" + Path.of("a.sock").toAbsolutePath(), Address.target("unix:a.sock", null));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "localhost",
        ":50551",
        "http://localhost:50551",
        "unix:",
        "unix://host/path",
        "a b:1"
      })
  void anythingElseIsRefusedWithAMessageThatSaysWhatToWrite(String address) {
    String message = refusal(address, null);
    assertTrue(message.contains("the address is \"" + address + "\"; write HOST:PORT"), message);
  }

  @Test
  void theMessageNamesTheVariableIfThatIsWhereTheAddressIsFrom() {
    String message = refusal(null, "localhost");
    assertTrue(message.startsWith("EMBERCACHE_ADDRESS is \"localhost\""), message);
  }

  private static String refusal(String given, String environment) {
    return assertThrows(IllegalArgumentException.class, () -> Address.target(given, environment))
        .getMessage();
  }
}
