-- Runs the operations, and stores their effects.
local replies

-- Begins with what Redis has.
local function begin()
  batch.locks, batch.changed, batch.queues, batch.reservations = {}, {}, {}, {}
  batch.published, batch.notified, batch.released, batch.releases, batch.has_read_releases = {}, {}, {}, nil, nil
  batch.token, batch.writes, batch.held, batch.expired = tonumber(token), tonumber(writes), tonumber(held), 0
  batch.rebuild, batch.index, batch.drops_releases, batch.resumes = nil, nil, nil, nil
  for at, operation in ipairs(operations) do
    know(operation.key, read[RECORD + at])
  end
end

-- Runs all operations that have not failed. Returns false if one fails: its effects on the copies are unknown.
local function run()
  begin()
  replies = {}
  for at, operation in ipairs(operations) do
    batch.operation, operation.changed = operation, nil
    local reply = operation.failure or refusals[operation.verb]
    if not reply then
      local done
      done, reply = pcall(need(operation.verb), operation.key, operation.arguments)
      if not done then
        operation.failure = 'error\tnone\t' .. (type(reply) == 'table' and reply.err or tostring(reply))
        return false
      end
    end
    replies[at] = reply
  end
  return true
end
while not run() do end

local forgotten = 0
local function answer()
  return {
    'ok', batch.now_text, now - batch.expired_at, online, batch.writes, batch.held, batch.expired, forgotten, replies,
    batch.notified,
  }
end

-- The fields to set, those to remove, and the index.
local stored, removed, scores, unindexed, is_removed = {}, {}, {}, {}, {}

for _, lock in ipairs(batch.changed) do
  local key = lock.key
  if lock.queued and batch.queues[key] and not need('queue').has_entries(lock) then lock.queued = false end
  local text, ends, leases = lock.queued and 'Q\n' or '', now + QUEUE_SWEEP_US, 0
  for at, lease in ipairs(lock.leases) do
    text = text .. line_of(lease) .. '\n'
    local lease_ends = over_at(lease)
    if at == 1 and not lock.queued or lease_ends < ends then ends = lease_ends end
    if lease.kind == 'L' or lease.kind == 'S' then leases = leases + 1 end
  end
  batch.held, batch.expired = batch.held + leases - lock.held, batch.expired + lock.expired
  -- Once a script has removed a field, Redis lets it write without memory. So a release always succeeds. A removal of
  -- nothing would do the same for every batch.
  if lock.text and (text == '' or lock.let_go) then
    removed[#removed + 1], is_removed[key] = key, true
  end
  if text == '' then
    unindexed[#unindexed + 1] = key
  else
    if text ~= lock.text or lock.let_go then
      stored[#stored + 1] = key
      stored[#stored + 1] = text
    end
    scores[#scores + 1] = int(ends)
    scores[#scores + 1] = key
  end
end

local function set(field, value)
  stored[#stored + 1] = field
  stored[#stored + 1] = value
end
if batch.token ~= tonumber(token) then set('#token', batch.token) end
if batch.writes ~= tonumber(writes) then set('#writes', batch.writes) end
if batch.held ~= tonumber(held) then set('#held', batch.held) end
if batch.rebuild then set('#rebuild', batch.rebuild) end
if batch.index then set('#index', batch.index) end
if batch.resumes then set('#recover', '0') end

-- The releases are in two hashes that take turns: the older one is dropped when the younger one is as old as a release
-- is remembered, or when both are too large together.
local current, drops_older
if batch.releases then
  local since, count, older
  current, since, count, older = string.match(batch.remembers or '', '^(%d) (%d+) (%d+) (%d+)$')
  local added, begins = #batch.releases / 2, not current
  if begins then current, since, count, older = 1, batch.now_text, 0, 0 end
  local is_old = now - since >= RELEASE_MEMORY_US
  if is_old or count + added + older > MAX_RELEASES then
    forgotten = is_old and 0 or tonumber(older)
    current, since, count, older, drops_older = 3 - current, batch.now_text, 0, count, true
    begins = true
  end
  if begins then
    -- Redis keeps a hash with such a long value as a table, and one of short values as a list that it searches.
    batch.releases[#batch.releases + 1], batch.releases[#batch.releases + 2] = '', string.rep(' ', 65)
  end
  set('#releases', current .. ' ' .. since .. ' ' .. count + added .. ' ' .. older)
elseif batch.drops_releases then
  set('#releases', '')
end

if #removed == 0 and #stored == 0 and #scores == 0 and #unindexed == 0 then return answer() end

-- Runs a command. If it fails, the operations with effects fail, and this returns false.
local function attempt(outcome, ...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return true end
  forgotten = 0
  need('failure')(replies, is_removed, outcome, reply.err)
  if outcome ~= 'unknown' then batch.writes, batch.held = writes, held end
  return false
end

if #removed > 0 and not attempt('none', 'HDEL', LOCKS, unpack(removed)) then return answer() end
if #stored > 0 and not attempt('removed', 'HSET', LOCKS, unpack(stored)) then return answer() end

-- From here on a failure leaves a part of the effects behind, and does not stop the others.
if batch.index then attempt('unknown', 'UNLINK', batch.LEASES) end
if #unindexed > 0 then attempt('unknown', 'ZREM', batch.LEASES, unpack(unindexed)) end
if #scores > 0 then attempt('unknown', 'ZADD', batch.LEASES, unpack(scores)) end
if batch.releases then
  local hash = batch.RELEASED[tonumber(current)]
  if drops_older then attempt('unknown', 'UNLINK', hash) end
  attempt('unknown', 'HSET', hash, unpack(batch.releases))
elseif batch.drops_releases then
  attempt('unknown', 'UNLINK', batch.RELEASED[1], batch.RELEASED[2])
end
for _, of_lock in pairs(batch.queues) do need('queue').store(of_lock, attempt) end
for key, reservation in pairs(batch.reservations) do
  if reservation then
    attempt('unknown', 'HSET', batch.RESERVATIONS, key, reservation)
  else
    attempt('unknown', 'HDEL', batch.RESERVATIONS, key)
  end
end
for _, message in ipairs(batch.published) do
  -- A lost message costs a second: servers read reservations with each heartbeat.
  redis.pcall('PUBLISH', prefix .. 'wake:' .. message[1], message[2])
end
return answer()
