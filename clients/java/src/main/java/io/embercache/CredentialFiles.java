package io.embercache;

import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Optional;

/**
 * The files by which a client and a sidecar know each other. One that is not named is the one that
 * the environment names: {@code EMBERCACHE_TOKEN_FILE}, {@code EMBERCACHE_CA_FILE}, {@code
 * EMBERCACHE_CERT_FILE} and {@code EMBERCACHE_KEY_FILE}.
 *
 * <p>Certificates are in PEM, and for addresses like {@code tls://HOST:PORT}. They are read once: a
 * connection that lives longer than its certificate has to be made anew.
 */
public final class CredentialFiles {
  private Path token;
  private Path ca;
  private Path certificate;
  private Path key;

  /**
   * A token, which every call carries; it is read again when it is older than ten seconds. It is
   * not sent to other machines without TLS.
   */
  public CredentialFiles token(Path file) {
    token = file;
    return this;
  }

  /** The authorities that the sidecar's certificate may be of, in place of those Java knows. */
  public CredentialFiles ca(Path file) {
    ca = file;
    return this;
  }

  /** The certificate that is shown to the sidecar, and its key in PKCS #8. */
  public CredentialFiles certificate(Path file, Path key) {
    certificate = file;
    this.key = key;
    return this;
  }

  /** These files, and in place of those that are not named the ones of the environment. */
  CredentialFiles orOf(Map<String, String> environment) {
    return new CredentialFiles()
        .token(or(token, environment.get("EMBERCACHE_TOKEN_FILE")))
        .ca(or(ca, environment.get("EMBERCACHE_CA_FILE")))
        .certificate(
            or(certificate, environment.get("EMBERCACHE_CERT_FILE")),
            or(key, environment.get("EMBERCACHE_KEY_FILE")));
  }

  private static Path or(Path file, String variable) {
    return file != null || variable == null || variable.isEmpty() ? file : Path.of(variable);
  }

  /**
   * What calls to that address carry, if there is a token.
   *
   * @throws IllegalArgumentException if it cannot be read or is not for that address
   */
  Optional<Token> tokenFor(Address address) {
    if (token != null && !address.isPrivate()) {
      throw new IllegalArgumentException(
          "a token must not cross a network unencrypted: write tls://HOST:PORT, or leave the token"
              + " file out");
    }
    return Optional.ofNullable(token).map(file -> new Token(file, System::nanoTime));
  }

  /**
   * How the sidecar at that address is connected to.
   *
   * @throws IllegalArgumentException if a certificate cannot be read or is not for that address
   */
  ChannelCredentials channelFor(Address address) {
    if ((certificate == null) != (key == null)) {
      throw new IllegalArgumentException("give a certificate file and a key file, or neither");
    }
    if (!address.isEncrypted) {
      if (ca != null || certificate != null) {
        throw new IllegalArgumentException(
            "certificates are for an address like tls://HOST:PORT");
      }
      return InsecureChannelCredentials.create();
    }
    TlsChannelCredentials.Builder builder = TlsChannelCredentials.newBuilder();
    try {
      if (ca != null) {
        builder.trustManager(pem(ca, "CERTIFICATE"));
      }
      if (certificate != null) {
        builder.keyManager(pem(certificate, "CERTIFICATE"), pem(key, "PRIVATE KEY"));
      }
    } catch (IOException error) {
      throw new IllegalArgumentException("a file cannot be read: " + error, error);
    }
    return builder.build();
  }

  private static InputStream pem(Path file, String label) throws IOException {
    byte[] content = Files.readAllBytes(file);
    String header = "-----BEGIN " + label + "-----";
    if (!new String(content, StandardCharsets.US_ASCII).contains(header)) {
      throw new IllegalArgumentException(
          String.format(
              "%s has no line %s; keys of other forms become such by"
                  + " `openssl pkcs8 -topk8 -nocrypt`",
              file, header));
    }
    return new ByteArrayInputStream(content);
  }
}
