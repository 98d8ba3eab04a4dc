import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.ArrayList;

/** Works under a lease: Work KEY SECONDS FILE [WORKERS]. The workers write to the file what they do, and when. */
class Work {
  static final Leasehold locks = new Leasehold(null, null);
  static volatile boolean failed;

  static void log(Path file, String word, Leasehold.Lease lease, long at) throws IOException {
    var line = word + " " + lease.fencingToken + " " + at + "\n";
    Files.writeString(file, line, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
  }

  static void signal(Path file, Leasehold.Lease lease) {
    try {
      lease.lost.join();
      log(file, "signal", lease, System.currentTimeMillis());
    } catch (IOException failure) {
      failure.printStackTrace();
    }
  }

  static Duration seconds(String text) {
    return Duration.ofMillis(Math.round(Double.parseDouble(text) * 1000));
  }

  static Leasehold.Options options() {
    var environment = System.getenv();
    var options = new Leasehold.Options();
    options.holder = "java";
    options.ttl = seconds(environment.getOrDefault("WORK_TTL", "3"));
    if (environment.containsKey("WORK_WAIT")) options.wait = seconds(environment.get("WORK_WAIT"));
    if (environment.containsKey("WORK_MAX_HOLD")) options.maxHold = seconds(environment.get("WORK_MAX_HOLD"));
    return options;
  }

  static void work(String key, Duration time, Path file) {
    try {
      try (var lease = locks.acquire(key, options())) {
        log(file, "begin", lease, System.currentTimeMillis());
        var signal = new Thread(() -> signal(file, lease));
        signal.setDaemon(true);
        signal.start();
        for (long begun = System.nanoTime(); System.nanoTime() - begun < time.toNanos(); Thread.sleep(20)) {
          long at = System.currentTimeMillis();
          lease.check();
          log(file, "beat", lease, at);
        }
        log(file, "end", lease, System.currentTimeMillis());
      }
      System.out.println("released");
    } catch (Exception failure) {
      failed = true;
      System.err.println(failure.getClass().getSimpleName() + ": " + failure.getMessage());
    }
  }

  public static void main(String[] args) throws InterruptedException {
    var threads = new ArrayList<Thread>();
    for (int i = 0; i < (args.length > 3 ? Integer.parseInt(args[3]) : 1); i++) {
      threads.add(new Thread(() -> work(args[0], seconds(args[1]), Path.of(args[2]))));
    }
    threads.forEach(Thread::start);
    for (var thread : threads) thread.join();
    System.exit(failed ? 1 : 0);
  }
}
