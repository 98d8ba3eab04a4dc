class FiveCalls {
  public static void main(String[] args) throws Exception {
    var key = args.length > 0 ? args[0] : "reports/nightly";
    var url = System.getenv().getOrDefault("LOCK_URL", "http://127.0.0.1:8080");
    var locks = new Leasehold(url, System.getenv("LOCK_TOKEN"));

    var lease = locks.acquire(key, 6000, 10_000, "java");
    System.out.printf("acquired with token %d, mine for %d ms%n", lease.fencingToken, lease.leftMs());

    try {
      locks.acquire(key, 6000, 0, "java");
    } catch (Leasehold.Refused refused) {
      if (refused.status != 423) throw refused;
      var holder = refused.field("holder");
      System.out.printf("423 lock-held: %s has it for %s ms%n", holder, refused.field("expires_in_ms"));
    }

    Thread.sleep(lease.renewAfterMs); // the work; long work renews each time that renewAfterMs has passed
    lease.renew();
    System.out.printf("renewed, mine for %d ms%n", lease.leftMs());

    lease.release();
    System.out.println("released");

    try {
      lease.renew();
    } catch (Leasehold.Refused refused) {
      if (refused.status != 409) throw refused;
      // A lease that is over does not come back: stop the work.
      System.out.printf("409 lease-lost: %s%n", refused.field("reason"));
    }
  }
}
