import java.util.Map;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.ApiResponse;
import org.openapitools.client.api.LocksApi;
import org.openapitools.client.model.AcquireBody;
import org.openapitools.client.model.Lease;
import org.openapitools.client.model.Problem;
import org.openapitools.client.model.RenewBody;

/** The calls that every generated client must make: here with openapi-generator's for Java. */
public final class Calls {
    private static final String KEY = "clients/java";

    private interface Call {
        void run() throws ApiException;
    }

    public static void main(String[] arguments) throws Exception {
        ApiClient client = new ApiClient().setBasePath(arguments[0]);
        client.setBearerToken(arguments[1]);
        LocksApi locks = new LocksApi(client);

        AcquireBody wanted = new AcquireBody().ttlMs(30_000L).holder("first").metadata(Map.of("job", "42"));
        ApiResponse<Lease> acquired = locks.acquireWithHttpInfo(KEY, null, wanted);
        Lease lease = acquired.getData();
        check(acquired.getStatusCode() == 201 && lease.getKey().equals(KEY) && lease.getHolder().equals("first")
            && lease.getMetadata().equals(Map.of("job", "42")) && lease.getFencingToken() > 0
            && lease.getExpiresInMs() > 0 && lease.getExpiresInMs() <= 30_000 && lease.getAcquiredAt() != null, lease);

        Problem held = refused(423, () -> locks.acquire(KEY, null, null));
        check(held.getType().equals("urn:leasehold:problem:lock-held") && held.getHolder().equals("first")
            && held.getFencingToken().equals(lease.getFencingToken()) && held.getHeldForMs() >= 0 && held.getWaiters() == 0
            && held.getExpiresInMs() > 0 && held.getExpiresInMs() <= 30_000, held);

        Lease renewed = locks.renew(KEY, lease.getLeaseId(), new RenewBody().ttlMs(60_000L));
        check(renewed.getFencingToken().equals(lease.getFencingToken()) && renewed.getExpiresInMs() > 30_000, renewed);

        check(locks.releaseWithHttpInfo(KEY, lease.getLeaseId(), null, null).getStatusCode() == 204, "released");

        Problem lost = refused(409, () -> locks.renew(KEY, lease.getLeaseId(), null));
        check(lost.getType().equals("urn:leasehold:problem:lease-lost") && lost.getReason() == Problem.ReasonEnum.NOT_HELD, lost);

        System.out.println("java: acquired, held, renewed, released, lost");
        // The client's threads would keep the program for a minute.
        System.exit(0);
    }

    /** The problem that a refusal carries. */
    private static Problem refused(int status, Call call) throws Exception {
        try {
            call.run();
        } catch (ApiException refusal) {
            check(refusal.getCode() == status, refusal);
            return Problem.fromJson(refusal.getResponseBody());
        }
        throw new AssertionError("no refusal");
    }

    private static void check(boolean holds, Object what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
