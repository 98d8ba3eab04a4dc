-- The releases of the last seconds, by lock and lease id ('L') or idempotency key ('I').
local remembered = {}

local forget_at = now + RELEASE_MEMORY_US
local forget_text = int(forget_at)

local function field_of(key, kind, id)
  return key .. '\t' .. kind .. string.sub(id, -16)
end

-- Reads until when these releases are remembered. An idempotency key may have been released again since: in the younger
-- hash, or by this batch.
local function read(fields)
  if not batch.remembers then return end
  for _, hash in ipairs(batch.RELEASED) do
    for at, forget_at in ipairs(redis.call('HMGET', hash, unpack(fields))) do
      local known = batch.released[fields[at]] or 0
      if forget_at then batch.released[fields[at]] = math.max(known, tonumber(forget_at)) end
    end
  end
end

-- Whether a lease was released moments ago, by its id or its idempotency key. The first acquisition reads the releases
-- of all acquisitions of the batch.
function remembered.has(key, id, idem)
  if not batch.has_read_releases then
    batch.has_read_releases = true
    local fields = {}
    for _, operation in ipairs(batch.operations) do
      if operation.verb == 'acquire' then
        local id, idem = string.match(operation.arguments, '^([^\t]*)\t([^\t]*)')
        fields[#fields + 1] = field_of(operation.key, 'L', id)
        if idem ~= '' then fields[#fields + 1] = field_of(operation.key, 'I', idem) end
      end
    end
    read(fields)
  end
  local by_id = batch.released[field_of(key, 'L', id)]
  local by_key = idem ~= '' and batch.released[field_of(key, 'I', idem)]
  return by_id and now < by_id or by_key and now < by_key
end

-- Whether the lease with this id was released moments ago.
function remembered.has_lease(key, id)
  local field = field_of(key, 'L', id)
  if batch.released[field] == nil then read({ field }) end
  local forget_at = batch.released[field]
  return forget_at and now < forget_at
end

-- Remembers the release of a lease.
function remembered.add(key, id, idem)
  local stored = batch.releases or {}
  batch.releases = stored
  local field = field_of(key, 'L', id)
  batch.released[field], stored[#stored + 1], stored[#stored + 2] = forget_at, field, forget_text
  if idem ~= '' then
    field = field_of(key, 'I', idem)
    batch.released[field], stored[#stored + 1], stored[#stored + 2] = forget_at, field, forget_text
  end
end

return remembered
