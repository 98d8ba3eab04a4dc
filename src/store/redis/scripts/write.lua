-- Runs the operations, and stores their effects.
local replies

-- Begins with what Redis has.
local function begin()
  local texts = {}
  ctx = {
    texts = texts, locks = {}, changed = {}, queues = {}, released = {}, reservations = {}, published = {}, notified = {},
    token = tonumber(token), writes = tonumber(writes), held = tonumber(held), expired = 0,
  }
  for at, operation in ipairs(operations) do
    texts[operation.key] = read[RECORD + at] or nil
  end
end

-- Runs all operations that have not failed. Returns false if one fails: its effects on the copies are unknown.
local function run()
  begin()
  replies = {}
  for at, operation in ipairs(operations) do
    ctx.operation, operation.changed = operation, nil
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
  return { 'ok', now_text, online, ctx.writes, ctx.held, ctx.expired, forgotten, replies, ctx.notified }
end

-- The fields to set, those to remove, and the index.
local stored, removed, scores, unindexed, is_removed = {}, {}, {}, {}, {}

for key, lock in pairs(ctx.changed) do
  if lock.queued and ctx.queues[key] and not need('queue').has_entries(lock) then lock.queued = false end
  local text, ends, leases = lock.queued and 'Q\n' or '', now + QUEUE_SWEEP_US, 0
  for at, lease in ipairs(lock.leases) do
    local deadline = int(lease.deadline)
    text = text .. (lease.ticket and 'R\t' or 'L\t') .. lease.id .. '\t' .. lease.token .. '\t' .. lease.acquired .. '\t' .. deadline
      .. '\t' .. lease.grace .. '\t' .. lease.ttl .. '\t' .. lease.renewals .. '\t' .. lease.attempt .. '\t' .. lease.idem
      .. '\t' .. lease.fingerprint .. '\t' .. (lease.ticket or '') .. '\t' .. (lease.ticket and lease.server or '')
      .. '\t' .. lease.holder .. '\t' .. lease.metadata .. '\n'
    local lease_ends = lease.deadline + lease.grace
    if at == 1 and not lock.queued or lease_ends < ends then ends = lease_ends end
    if not lease.ticket then leases = leases + 1 end
  end
  ctx.held, ctx.expired = ctx.held + leases - lock.held, ctx.expired + lock.expired
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
    scores[#scores + 1] = ends
    scores[#scores + 1] = key
  end
end

local function set(field, value)
  stored[#stored + 1] = field
  stored[#stored + 1] = value
end
if ctx.token ~= tonumber(token) then set('#token', ctx.token) end
if ctx.writes ~= tonumber(writes) then set('#writes', ctx.writes) end
if ctx.held ~= tonumber(held) then set('#held', ctx.held) end
if ctx.rebuild then set('#rebuild', ctx.rebuild) end
if ctx.index then set('#index', ctx.index) end

-- The releases are in two hashes that take turns: the older one is dropped when the younger one is as old as a release is
-- remembered, or when both are too large together.
local current, drops_older
if ctx.releases then
  local since, count, older
  current, since, count, older = match(releases, '^(%d) (%d+) (%d+) (%d+)$')
  local added, begins = #ctx.releases / 2, not current
  if begins then current, since, count, older = 1, now_text, 0, 0 end
  local is_old = now - since >= RELEASE_MEMORY_US
  if is_old or count + added + older > MAX_RELEASES then
    forgotten = is_old and 0 or tonumber(older)
    current, since, count, older, drops_older = 3 - current, now_text, 0, count, true
    begins = true
  end
  if begins then
    -- Redis keeps a hash with such a long value as a table, and one of short values as a list that it searches.
    ctx.releases[#ctx.releases + 1], ctx.releases[#ctx.releases + 2] = '', string.rep(' ', 65)
  end
  set('#releases', current .. ' ' .. since .. ' ' .. count + added .. ' ' .. older)
elseif ctx.drops_releases then
  set('#releases', '')
end

if #removed == 0 and #stored == 0 and #scores == 0 and #unindexed == 0 then return answer() end

-- Runs a command. If it fails, the operations with effects fail, and this returns false.
local function attempt(outcome, ...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return true end
  forgotten = 0
  need('failure')(replies, is_removed, outcome, reply.err)
  return false
end

if #removed > 0 and not attempt('none', 'HDEL', LOCKS, unpack(removed)) then return answer() end
if #stored > 0 and not attempt('removed', 'HSET', LOCKS, unpack(stored)) then return answer() end

-- From here on a failure leaves a part of the effects behind, and does not stop the others.
if ctx.index then attempt('unknown', 'UNLINK', LEASES) end
if #unindexed > 0 then attempt('unknown', 'ZREM', LEASES, unpack(unindexed)) end
if #scores > 0 then attempt('unknown', 'ZADD', LEASES, unpack(scores)) end
if ctx.releases then
  local hash = RELEASED[tonumber(current)]
  if drops_older then attempt('unknown', 'UNLINK', hash) end
  attempt('unknown', 'HSET', hash, unpack(ctx.releases))
elseif ctx.drops_releases then
  attempt('unknown', 'UNLINK', RELEASED[1], RELEASED[2])
end
for _, of_lock in pairs(ctx.queues) do need('queue').store(of_lock, attempt) end
for key, reservation in pairs(ctx.reservations) do
  if reservation then
    attempt('unknown', 'HSET', RESERVATIONS, key, reservation)
  else
    attempt('unknown', 'HDEL', RESERVATIONS, key)
  end
end
for _, message in ipairs(ctx.published) do
  -- A lost message costs a second: servers read reservations with each heartbeat.
  redis.pcall('PUBLISH', prefix .. 'wake:' .. message[1], message[2])
end
return answer()
