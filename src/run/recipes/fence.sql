-- PostgreSQL refuses the writes of a holder that is late. Load this file once. Each transaction that writes under a lease then
-- begins with
--     SELECT fence('jobs/book', 1795844574085950);
-- with the key of the lock and the fencing token of the lease. Until the transaction ends, the row of the key is locked: no
-- later holder can write meanwhile, and a token that has passed is the highest one.
CREATE TABLE fences (key text PRIMARY KEY, token bigint NOT NULL);

CREATE FUNCTION fence(lock_key text, fencing_token bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO fences VALUES (lock_key, fencing_token)
    ON CONFLICT (key) DO UPDATE SET token = excluded.token WHERE fences.token <= excluded.token;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the fencing token % of % is too old: stop', fencing_token, lock_key;
  END IF;
END $$;
