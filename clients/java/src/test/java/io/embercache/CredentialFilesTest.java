package io.embercache;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.embercache.v1.EmbedRequest;
import io.embercache.v1.EmbedServiceGrpc;
import io.grpc.Metadata;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Tokens and certificates. Real TLS sidecars are called by make test-clients. */
class CredentialFilesTest {
  private static final int HANG_GUARD_SECONDS = 60;
  private static final Path MISSING = Path.of("/missing/file");

  @TempDir Path folder;

  @Test
  void everyCallCarriesTheTokenOverLoopbackAndUnixSocket() throws Exception {
    CredentialFiles files = new CredentialFiles().token(file("token", "a-token\n"));
    try (ScriptedSidecar tcp = new ScriptedSidecar();
        ScriptedSidecar unix = ScriptedSidecar.onSocket(folder + "/s")) {
      assertEquals(List.of("Bearer a-token"), shown(tcp, tcp.address(), files));
      assertEquals(List.of("Bearer a-token"), shown(unix, "unix:" + folder + "/s", files));
    }
  }

  @Test
  void withoutATokenCallsCarryNone() throws Exception {
    try (ScriptedSidecar sidecar = new ScriptedSidecar()) {
      assertEquals(List.of(), shown(sidecar, sidecar.address(), new CredentialFiles()));
    }
  }

  @Test
  void theEnvironmentNamesTheFilesThatAreNotGiven() throws Exception {
    CredentialFiles given = new CredentialFiles().token(file("given", "given"));
    Map<String, String> token =
        Map.of("EMBERCACHE_TOKEN_FILE", file("environment", "environment").toString());
    try (ScriptedSidecar sidecar = new ScriptedSidecar()) {
      String address = sidecar.address();
      assertEquals(List.of("Bearer given"), shown(sidecar, address, given.orOf(token)));
      CredentialFiles none = new CredentialFiles();
      assertEquals(List.of("Bearer environment"), shown(sidecar, address, none.orOf(token)));
      Map<String, String> empty = Map.of("EMBERCACHE_TOKEN_FILE", "");
      assertEquals(List.of(), shown(sidecar, address, none.orOf(empty)));
    }
    String there = file("there", "-----BEGIN CERTIFICATE-----\n").toString();
    for (String name : List.of("CA", "CERT", "KEY")) {
      Map<String, String> files =
          Map.of("EMBERCACHE_CERT_FILE", there, "EMBERCACHE_KEY_FILE", there);
      Map<String, String> missing = new HashMap<>(files);
      missing.put("EMBERCACHE_" + name + "_FILE", "/missing/" + name);
      String message = refusal("tls://localhost:1", new CredentialFiles().orOf(missing));
      assertTrue(message.contains("/missing/" + name), message);
    }
  }

  @Test
  void aTokenThatIsReplacedIsShownWithinTenSecondsAndTheLastOneMeanwhile() throws Exception {
    AtomicLong now = new AtomicLong();
    Token token = new Token(file("token", "first\n"), now::get);
    file("token", "second");
    assertEquals("first", token.value());
    now.addAndGet(TimeUnit.SECONDS.toNanos(10) + 1);
    assertEquals("second", token.value());
    Files.delete(folder.resolve("token"));
    now.addAndGet(TimeUnit.SECONDS.toNanos(10) + 1);
    assertEquals("second", token.value());
    file("token", "third");
    assertEquals("second", token.value());
    now.addAndGet(TimeUnit.SECONDS.toNanos(10) + 1);
    assertEquals("third", token.value());
  }

  @ParameterizedTest
  @MethodSource("privateAddresses")
  void aTokenIsSentWhereNobodyElseCanReadIt(String address) throws Exception {
    Embercache.connect(address, new CredentialFiles().token(file("token", "t"))).close();
  }

  @ParameterizedTest
  @MethodSource("publicAddresses")
  void aTokenIsNotSentToOtherMachinesUnencrypted(String address) throws Exception {
    String message = refusal(address, new CredentialFiles().token(file("token", "t")));
    assertTrue(message.contains("write tls://HOST:PORT"), message);
  }

  static List<String> privateAddresses() throws IOException {
    return AddressTest.table("private ");
  }

  static List<String> publicAddresses() throws IOException {
    return AddressTest.table("public ");
  }

  @ParameterizedTest
  @ValueSource(strings = {"", " \n", "\u00e9", "a\u0000b"})
  void aFileWithoutATokenIsRefused(String content) throws Exception {
    String message = refusal("unix:s", new CredentialFiles().token(file("token", content)));
    assertEquals("the token file " + folder + "/token holds no token", message);
  }

  @Test
  void theProgramOfTheGuideSaysWhichFileItLacks() {
    Executable program =
        () -> {
          CredentialFiles files =
              new CredentialFiles()
                  .token(Path.of("/run/secrets/embercache/token"))
                  .ca(Path.of("/run/secrets/embercache/ca.crt"));
          Embercache embercache = Embercache.connect("tls://sidecar.example:50551", files);
          embercache.close();
        };
    String message = assertThrows(IllegalArgumentException.class, program).getMessage();
    assertTrue(message.contains("/run/secrets/embercache/ca.crt"), message);
  }

  @Test
  void aFileThatIsNotThereIsNamed() throws Exception {
    Path there = file("there", "-----BEGIN CERTIFICATE-----\n");
    for (CredentialFiles files :
        List.of(
            new CredentialFiles().token(MISSING),
            new CredentialFiles().ca(MISSING),
            new CredentialFiles().certificate(MISSING, there),
            new CredentialFiles().certificate(there, MISSING))) {
      String message = refusal("tls://localhost:1", files);
      assertTrue(message.contains("cannot be read: "), message);
      assertTrue(message.contains("/missing/file"), message);
    }
  }

  @Test
  void aFileThatHoldsNoCertificateOrKeyIsRefusedWithTheLineThatItLacks() throws Exception {
    Path certificate = file("certificate", "-----BEGIN CERTIFICATE-----\n");
    Path key = file("key", "-----BEGIN EC PRIVATE KEY-----\n");
    Map<CredentialFiles, String> wrong =
        Map.of(
            new CredentialFiles().ca(key), "-----BEGIN CERTIFICATE-----",
            new CredentialFiles().certificate(key, key), "-----BEGIN CERTIFICATE-----",
            new CredentialFiles().certificate(certificate, key), "-----BEGIN PRIVATE KEY-----");
    wrong.forEach(
        (files, line) -> {
          String message = refusal("tls://localhost:1", files);
          assertTrue(message.startsWith(key + " has no line " + line), message);
        });
  }

  @ParameterizedTest
  @ValueSource(strings = {"localhost:1", "unix:s"})
  void certificatesAreForAddressesOfTls(String address) throws Exception {
    Path there = file("there", "");
    for (CredentialFiles files :
        List.of(new CredentialFiles().ca(there), new CredentialFiles().certificate(there, there))) {
      String message = refusal(address, files);
      assertEquals("certificates are for an address like tls://HOST:PORT", message);
    }
  }

  @Test
  void aCertificateNeedsItsKey() throws Exception {
    Path there = file("there", "");
    for (CredentialFiles files :
        List.of(
            new CredentialFiles().certificate(there, null),
            new CredentialFiles().certificate(null, there))) {
      String message = refusal("tls://localhost:1", files);
      assertEquals("give a certificate file and a key file, or neither", message);
    }
  }

  private Path file(String name, String content) throws IOException {
    return Files.writeString(folder.resolve(name), content);
  }

  /** What one call to that address carries. */
  private static List<String> shown(ScriptedSidecar sidecar, String address, CredentialFiles files) {
    try (Embercache embercache = Embercache.connect(Address.of(address, null), files)) {
      EmbedServiceGrpc.newBlockingStub(embercache.channel())
          .withDeadlineAfter(HANG_GUARD_SECONDS, TimeUnit.SECONDS)
          .embed(EmbedRequest.getDefaultInstance());
    }
    Metadata.Key<String> key =
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    List<String> values = new ArrayList<>();
    Iterable<String> all = sidecar.seen.remove().getAll(key);
    if (all != null) {
      all.forEach(values::add);
    }
    return values;
  }

  private static String refusal(String address, CredentialFiles files) {
    return assertThrows(
            IllegalArgumentException.class,
            () -> Embercache.connect(Address.of(address, null), files))
        .getMessage();
  }
}
