import java.io.IOException;
import java.net.*;
import java.net.http.*;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.regex.Pattern;

/**
 * A client for Leasehold in one file, with the JDK alone: copy it.
 * <pre>{@code
 * try (var lease = new Leasehold(null, null).acquire("reports/nightly", new Leasehold.Options())) {
 *   lease.check();
 *   write(part, lease.fencingToken);
 * } // closing throws Lost if the lease was lost during the work
 * }</pre> */
public final class Leasehold {
  private static final Duration FOREVER = Duration.ofDays(36_500);
  private static final long PATIENCE_MS = 10_000; // for how long a call is repeated at least while no server can serve
  private static final long ANSWER_MS = 5000; // a healthy server answers sooner, apart from the wait for a lock
  private static final Pattern FIELD = Pattern.compile("\"(\\w+)\":(?:\"((?:[^\"\\\\]++|\\\\.)*+)\"|(\\d+))");
  private static final ExecutorService THREADS = Executors.newCachedThreadPool(
      work -> { var thread = new Thread(work, "leasehold"); thread.setDaemon(true); return thread; });
  /** What an acquisition asks for. With a wait of 0 it does not wait. After maxHold the lease counts as lost. */
  public static final class Options {
    public Duration ttl = Duration.ofSeconds(30), wait = FOREVER, maxHold = FOREVER, holdAtLeast = Duration.ZERO;
    public String holder = "";
  }
  /** A server refused the call. Status 423: another client holds the lock; see {@code problem.get("holder")}. */
  @SuppressWarnings("serial") public static final class Refused extends IOException {
    public final int status;
    public final Map<String, String> problem;
    private Refused(int status, Map<String, String> problem) {
      super(status + " " + problem.getOrDefault("type", "about:blank") + ": " + problem.get("detail"));
      this.status = status;
      this.problem = problem;
    }
  }
  /** The lock may be another client's: stop the work. */
  @SuppressWarnings("serial") public static class Lost extends Exception { private Lost(String why) { super(why); } }
  /** A moment on two clocks: one stops during a suspension, the other may be set back. The one that is ahead counts. */
  private record Moment(long nanos, long wallMs) {
    static Moment in(long ms) { return new Moment(System.nanoTime(), System.currentTimeMillis()).plus(ms); }
    Moment plus(long ms) { return new Moment(nanos + ms * 1_000_000, wallMs + ms); }
    long leftMs() { return Math.min((nanos - System.nanoTime()) / 1_000_000, wallMs - System.currentTimeMillis()); }
  }
  private final HttpClient http = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(2)).build();
  private volatile int current;
  private final String[] servers;
  private final String token;
  /** Servers, tried in turn: addresses with commas between them; and a bearer token. Null: from the environment. */
  public Leasehold(String servers, String token) {
    var named = System.getenv().getOrDefault("LEASEHOLD_SERVER", "http://127.0.0.1:8080");
    this.servers = (servers == null ? named : servers).trim().split("\\s*,\\s*");
    this.token = token == null ? System.getenv().getOrDefault("LEASEHOLD_TOKEN", "") : token;
  }

  /** Waits for the lock, and returns a lease that is renewed until it is closed. */
  public Lease acquire(String key, Options options) throws IOException, InterruptedException, Lost {
    // The key is one segment: its slashes become %2F. The encoder is made for forms, where a space is a plus.
    var path = "/locks/" + URLEncoder.encode(key, StandardCharsets.UTF_8).replace("+", "%20");
    var id = UUID.randomUUID().toString(); // one acquisition, and one place in the queue
    var escaped = options.holder.replaceAll("[\"\\\\]", "\\\\$0");
    var holder = escaped.isEmpty() ? "" : ",\"holder\":\"" + escaped + '"';
    long ttlMs = options.ttl.toMillis(), waitMs = options.wait.toMillis();
    Moment waitsUntil = Moment.in(waitMs), repeatsUntil = Moment.in(Math.max(waitMs % FOREVER.toMillis(), PATIENCE_MS));
    for (int attempt = 0; ; attempt++) {
      var sent = Moment.in(0);
      long pauseMs = pauseMs(attempt), pollMs = Math.max(0, Math.min(waitsUntil.leftMs(), 20_000)); // then it asks on
      var body = "{\"ttl_ms\":%d,\"wait_ms\":%d,\"hold_at_least_ms\":%d%s}"
          .formatted(ttlMs, pollMs, options.holdAtLeast.toMillis(), holder);
      try {
        // An answer that comes a TTL after the wait is of no use, because its lease is over.
        var grant = call("POST", path, "Idempotency-Key", id, body, pollMs + Math.min(ttlMs, ANSWER_MS));
        return new Lease(path, grant, sent, options.maxHold.toMillis());
      } catch (IOException failure) {
        int status = status(failure);
        if (failure instanceof Refused busy) pauseMs = Math.max(pauseMs, 1000 * number(busy.problem, "retry_after"));
        if (status == 423 && waitsUntil.leftMs() > 0) { // another client has it: ask on
          if (waitMs > PATIENCE_MS) repeatsUntil = waitsUntil;
          attempt = -1;
          pauseMs = Math.max(0, sent.plus(250).leftMs());
        } else if (status < 500 && status != 408 && status != 429 || repeatsUntil.leftMs() <= pauseMs) throw failure;
        Thread.sleep(pauseMs);
      }
    }
  }

  /** One attempt at the server that answered last. After a failure the next attempt goes to the next server. */
  private Map<String, String> call(String method, String path, String name, String id, String body, long timeoutMs)
      throws IOException, InterruptedException {
    int at = current;
    var uri = URI.create(servers[at % servers.length].replaceAll("/+$", "") + path);
    var request = HttpRequest.newBuilder(uri).headers(name, id, "Content-Type", "application/json")
        .version(HttpClient.Version.HTTP_1_1).method(method, HttpRequest.BodyPublishers.ofString(body));
    if (!token.isEmpty()) request.header("Authorization", "Bearer " + token);
    // The time-out of a request ends with the header of its answer; this one holds for the body too.
    var future = http.sendAsync(request.build(), HttpResponse.BodyHandlers.ofString());
    try {
      var answer = future.get(timeoutMs, TimeUnit.MILLISECONDS);
      var fields = fields(answer.body());
      if (answer.statusCode() < 300) return fields;
      fields.put("retry_after", answer.headers().firstValue("Retry-After").filter(s -> s.matches("\\d+")).orElse("0"));
      throw new Refused(answer.statusCode(), fields);
    } catch (TimeoutException | ExecutionException | IOException error) {
      if (status(error) >= 500) current = (at + 1) % servers.length;
      throw error instanceof Refused refused ? refused : new IOException("no answer: " + error, error);
    } finally {
      future.cancel(true);
    }
  }
  private static long number(Map<String, String> in, String name) { return Long.parseLong(in.getOrDefault(name, "0")); }
  private static int status(Exception failure) { return failure instanceof Refused refused ? refused.status : 503; }
  /** They double up to 2 s. A random part keeps clients apart that fail at the same moment. */
  private static long pauseMs(int attempt) {
    return (long) (Math.min(100 << Math.min(attempt, 5), 2000) * ThreadLocalRandom.current().nextDouble(0.5, 1));
  }
  /** The JDK has no JSON parser. This is enough for a client without metadata. */
  private static Map<String, String> fields(String json) {
    var fields = new HashMap<String, String>();
    FIELD.matcher(json).results().forEach(found -> fields.put(found.group(1),
        found.group(3) != null ? found.group(3) : found.group(2).replaceAll("\\\\(.)", "$1")));
    return fields;
  }
  /** A lock that is held. {@code lost} completes before it may be another client's; {@code check()} throws then. */
  public final class Lease implements AutoCloseable {
    public final CompletableFuture<String> lost = new CompletableFuture<>();
    public final String id;
    public final long fencingToken, ttlMs;
    private final CountDownLatch released = new CountDownLatch(1);
    private final String path;
    private final Moment ends;
    private volatile Moment until, due;
    private Lease(String path, Map<String, String> grant, Moment sent, long maxHoldMs) throws Lost {
      this.path = path;
      id = grant.get("lease_id");
      fencingToken = number(grant, "fencing_token");
      ttlMs = number(grant, "ttl_ms");
      ends = sent.plus(number(grant, "waited_ms") + maxHoldMs);
      extend(grant, sent);
      check();
      THREADS.submit(() -> { while (sleeps(Math.min(ttlMs / 20, 500))) check(); return null; });
      THREADS.submit(this::renew);
    }
    /** For how long the work can go on without a further renewal. */
    public long leftMs() { return lost.isDone() ? 0 : Math.max(0, Math.min(until.leftMs(), ends.leftMs())); }
    /** Throws {@code Lost} if the lock may be another client's soon. Call it before each step of the work. */
    public void check() throws Lost {
      if (leftMs() > 0) return;
      lose(ends.leftMs() <= 0 ? "it was held for as long as it may be" : "it was not renewed in time");
      throw new Lost(lost.getNow("it was released"));
    }
    /** Frees the lock. Without an answer of a server it is free when the lease is over. */
    @Override public void close() throws Lost {
      try {
        check(); // what was done was not protected to its end
      } finally {
        released.countDown();
        CompletableFuture.runAsync(this::release, THREADS).join(); // also when this thread is interrupted
      }
    }
    private void release() {
      var repeatsUntil = Moment.in(PATIENCE_MS);
      for (int attempt = 0; ; attempt++) try {
        if (attempt > 0) Thread.sleep(pauseMs(attempt - 1));
        call("DELETE", path, "Lease-Id", id, "", Math.min(ttlMs / 3, ANSWER_MS));
        return;
      } catch (IOException | InterruptedException failure) {
        if (status(failure) >= 500 && Math.min(until.leftMs(), repeatsUntil.leftMs()) > 0) continue;
        System.getLogger("leasehold").log(System.Logger.Level.WARNING, "the lease was not released: " + failure);
        return;
      }
    }
    /** The lease counts from the sending, and ends for its holder a little before others can have the lock. */
    private void extend(Map<String, String> grant, Moment sent) {
      var from = sent.plus(number(grant, "waited_ms"));
      due = from.plus(ttlMs / 3);
      until = from.plus(number(grant, "expires_in_ms") - Math.min(ttlMs / 10, 1000));
    }
    private void lose(String why) { if (released.getCount() > 0) lost.complete(why); }
    private boolean sleeps(long ms) throws InterruptedException { return !released.await(ms, TimeUnit.MILLISECONDS); }
    private Void renew() throws Exception {
      while (sleeps(Math.min(due.leftMs(), 500))) {
        check();
        if (due.leftMs() > 0) continue; // timers do not count suspensions: look at the clock
        var sent = Moment.in(0);
        try {
          var grant = call("PUT", path + "/lease", "Lease-Id", id, "", Math.min(ttlMs / 6, ANSWER_MS));
          check(); // an answer that comes too late revives nothing
          extend(grant, sent);
        } catch (IOException failure) {
          if (status(failure) == 409) lose(failure.getMessage());
          due = Moment.in(Math.min(ttlMs / 20, 1000));
        }
      }
      return null;
    }
  }
}
