-- Tries each command of the other scripts, on each key and channel that they use, without an effect.
-- KEYS: hashes, and behind them sorted sets. ARGV: how many hashes, and a channel.
-- Reply: for each command that failed: its name and the error.
--
-- Some of these commands fail on purpose, because they have no form without an effect. The caller looks for errors that
-- say that a command does not exist, or is not allowed.
local failed = {}
local function try(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) == 'table' and reply.err then
    failed[#failed + 1], failed[#failed + 2] = command, reply.err
  end
end

-- No field, and no member of a sorted set.
local NONE = '#none'
local hashes, channel = tonumber(ARGV[1]), ARGV[2]
for at, key in ipairs(KEYS) do
  -- One that reads, and one that writes.
  if at <= hashes then
    try('HLEN', key)
    try('HDEL', key, NONE)
  else
    try('ZCARD', key)
    try('ZREM', key, NONE)
  end
end

local hash, sorted_set = KEYS[1], KEYS[#KEYS]
try('HGET', hash, NONE)
try('HMGET', hash, NONE)
try('HVALS', KEYS[hashes])
try('HGETALL', KEYS[hashes])
try('HSCAN', hash, '0', 'COUNT', '1')
try('HSET', hash, NONE, '', 'too few')
try('HINCRBY', hash, NONE, 'no number')
try('ZADD', sorted_set, 'XX', '0', NONE)
try('ZCOUNT', sorted_set, '0', '0')
try('ZRANGE', sorted_set, '0', '0')
try('ZRANGEBYSCORE', sorted_set, '0', '0')
try('ZSCAN', sorted_set, '0', 'COUNT', '1')
try('EXISTS', sorted_set)
-- Nothing of the store has this name, but another program may.
if redis.pcall('EXISTS', sorted_set) == 0 then try('UNLINK', sorted_set) end
try('TIME')
try('PUBLISH', channel, '')
return failed
