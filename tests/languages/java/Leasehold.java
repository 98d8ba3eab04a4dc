import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ThreadLocalRandom;
import java.util.regex.Pattern;

/** A client for Leasehold in one file, with the JDK alone: copy it. */
class Leasehold {
  /** A server that is reachable accepts a connection sooner. */
  static final Duration CONNECT = Duration.ofSeconds(2);

  /** A healthy server answers sooner, apart from the time that a request waits for a lock. */
  static final long ANSWER_MS = 5000;

  /** How long a call is repeated, apart from that time. */
  static final long RETRY_MS = 10_000;

  /** The server refused a call. Status 423: another client holds the lock. 409: the lease is lost. */
  static class Refused extends IOException {
    private static final long serialVersionUID = 1;
    final int status;
    final String body;

    Refused(int status, String body) {
      super(status + " " + body);
      this.status = status;
      this.body = body;
    }

    String field(String name) {
      return Leasehold.field(body, name);
    }
  }

  private record Answer(long sent, String body) {}

  private final HttpClient http = HttpClient.newBuilder().connectTimeout(CONNECT).build();
  private final String url;
  private final String token;

  /** A server, and its bearer token or null. */
  Leasehold(String url, String token) {
    this.url = url.replaceAll("/$", "");
    this.token = token;
  }

  /** Waits up to {@code waitMs} for the lock. */
  Lease acquire(String key, long ttlMs, long waitMs, String holder) throws IOException, InterruptedException {
    // The key is one segment: its slashes become %2F. The encoder is made for forms, where a space is a plus.
    var path = "/locks/" + URLEncoder.encode(key, StandardCharsets.UTF_8).replace("+", "%20");
    // Each attempt has the same key. The server answers all of them with the same lease.
    var headers = Map.of("Idempotency-Key", UUID.randomUUID().toString());
    var name = holder.replace("\\", "\\\\").replace("\"", "\\\"");
    var body = "{\"ttl_ms\": %d, \"wait_ms\": %d, \"holder\": \"%s\"}".formatted(ttlMs, waitMs, name);
    // An answer that comes a TTL after the wait is of no use, because its lease is over.
    long timeoutMs = waitMs + Math.min(ttlMs, ANSWER_MS);
    var lease = new Lease(path, call("POST", path, headers, body, timeoutMs, after(waitMs + RETRY_MS)));
    if (lease.leftMs() <= 0) throw new IOException("the lease was over before the answer came");
    return lease;
  }

  /** Repeats a call without a clear answer until {@code until}, which is a time of {@code System.nanoTime}. */
  private Answer call(String method, String path, Map<String, String> headers, String body, long timeoutMs, long until)
      throws IOException, InterruptedException {
    for (int attempt = 0; ; attempt++) {
      long leftMs = leftMs(until);
      var request = HttpRequest.newBuilder(URI.create(url + path));
      long limitMs = leftMs > 0 ? Math.min(timeoutMs, leftMs) : ANSWER_MS; // the one attempt after the end
      request.timeout(Duration.ofMillis(limitMs));
      request.method(method, body.isEmpty() ? BodyPublishers.noBody() : BodyPublishers.ofString(body));
      request.header("Content-Type", "application/json");
      headers.forEach(request::header);
      if (token != null) request.header("Authorization", "Bearer " + token);

      long sent = System.nanoTime();
      IOException failure;
      double jitter = ThreadLocalRandom.current().nextDouble(0.5, 1);
      long pauseMs = (long) (Math.min(100L << Math.min(attempt, 5), 2000) * jitter);
      try {
        var answer = http.send(request.build(), BodyHandlers.ofString());
        int status = answer.statusCode();
        if (status < 300) return new Answer(sent, answer.body());
        var refused = new Refused(status, answer.body());
        if (status < 500 && status != 429) throw refused;
        var retryAfter = answer.headers().firstValue("Retry-After").filter(s -> s.matches("\\d{1,9}")).orElse("0");
        pauseMs = Math.max(pauseMs, 1000 * Long.parseLong(retryAfter));
        failure = refused;
      } catch (Refused refused) {
        throw refused;
      } catch (IOException error) {
        failure = error;
      }
      if (leftMs(until) <= pauseMs) throw failure;
      Thread.sleep(pauseMs);
    }
  }

  private static long after(long ms) {
    return System.nanoTime() + ms * 1_000_000;
  }

  private static long leftMs(long until) {
    return (until - System.nanoTime()) / 1_000_000;
  }

  /** The JDK has no JSON parser. This is enough for a client without metadata; use the parser that your program has. */
  private static String field(String body, String name) {
    var found = Pattern.compile("\"" + name + "\":\"?([^\",}]*)").matcher(body);
    if (!found.find()) throw new IllegalStateException("no " + name + " in " + body);
    return found.group(1);
  }

  /** A lock that was granted. Count on it while {@code leftMs()} is above 0. */
  class Lease {
    final String id;
    final long fencingToken;
    final long renewAfterMs;
    private final String path;
    private long until;

    private Lease(String path, Answer grant) {
      this.path = path;
      id = field(grant.body, "lease_id");
      fencingToken = Long.parseLong(field(grant.body, "fencing_token"));
      renewAfterMs = Long.parseLong(field(grant.body, "renew_after_ms"));
      extend(grant);
    }

    private void extend(Answer grant) {
      long waitedMs = Long.parseLong(field(grant.body, "waited_ms"));
      until = grant.sent + (waitedMs + Long.parseLong(field(grant.body, "expires_in_ms"))) * 1_000_000;
    }

    long leftMs() {
      return Leasehold.leftMs(until);
    }

    /** Makes the lease last its TTL from now. An attempt takes a third of the TTL, so that another fits. */
    void renew() throws IOException, InterruptedException {
      extend(call("PUT", "/lease", until));
    }

    /** Frees the lock. Without an answer the lock is free when the lease is over. */
    void release() throws IOException, InterruptedException {
      call("DELETE", "", leftMs() < RETRY_MS ? until : after(RETRY_MS));
    }

    private Answer call(String method, String suffix, long until) throws IOException, InterruptedException {
      long timeoutMs = Math.min(renewAfterMs, ANSWER_MS);
      return Leasehold.this.call(method, path + suffix, Map.of("Lease-Id", id), "", timeoutMs, until);
    }
  }
}
