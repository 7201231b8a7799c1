"""The Lua scripts of the counters in Redis: one to reserve, one to settle.

Redis runs a script as a whole, so no other Router sees half of it. The time is Redis' own. Amounts
go to HINCRBY as text and never as numbers of Lua, which would write 1e15 as `1e+15`.

A counter of a window is a hash from slots to uses. A counter of calls in flight is a sorted set of
call ids, scored by the time at which a place whose Router has died is free again. A marker for each
call says whether its reservation was made (`r` and the time) or the call is settled (`s`), so that
a script that runs twice changes nothing the second time.
"""

from __future__ import annotations

from serve_app.limits.windows import DAY_MS, REACH_MS, SLOT_MS

_WINDOWS = f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local months = {{}}
for month in string.gmatch(ARGV[1], '%d+') do months[#months + 1] = tonumber(month) end

local function slot_of(window, at)
  if window == 'm' then return at - at % {SLOT_MS} end
  if window == 'd' then return at - at % {DAY_MS} end
  local slot = months[1]
  for _, month in ipairs(months) do if month <= at then slot = month end end
  return slot
end

local function end_of(window, slot)
  if window == 'm' then return slot + {REACH_MS} end
  if window == 'd' then return slot + {DAY_MS} end
  for _, month in ipairs(months) do if month > slot then return month end end
  return slot + 31 * {DAY_MS}
end

local function text(number) return string.format('%.0f', number) end

local function add(key, window, slot, amount)
  redis.call('HINCRBY', key, text(slot), amount)
  redis.call('PEXPIREAT', key, text(end_of(window, slot_of(window, now)) + {DAY_MS}))
end
"""

RESERVE = (
    _WINDOWS
    + """
-- KEYS: marker, counters. ARGV: months, marker's ms, place's ms, call id, commit,
-- then window, limit, amount for each counter.
local marker = redis.call('GET', KEYS[1])
if marker then return {-1, 0, text(now)} end
local place_ends, commit = text(now + ARGV[3]), ARGV[5] == '1'
local refused, retry = 0, 0
local answer = {0, 0, text(now)}
local slots = {}

local function read(index, window)
  local key = KEYS[index + 1]
  if window == 'n' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now))
    return redis.call('ZCARD', key), 0, {}
  end
  local used, newest, counting = 0, 0, {}
  local found = redis.call('HGETALL', key)
  for field = 1, #found, 2 do
    local slot, amount = tonumber(found[field]), tonumber(found[field + 1])
    if end_of(window, slot) <= now then
      redis.call('HDEL', key, found[field])
    else
      used = used + amount
      counting[#counting + 1] = {slot, amount}
      if amount > 0 and slot > newest then newest = slot end
    end
  end
  return used, newest, counting
end

local function wait(window, counting, used, limit, amount)
  if window == 'n' then return 1000 end
  table.sort(counting, function(a, b) return a[1] < b[1] end)
  local ends = now
  for _, slot in ipairs(counting) do
    if used + amount <= limit then break end
    used = used - slot[2]
    ends = end_of(window, slot[1])
  end
  return math.max(1, ends - now)
end

for index = 1, #KEYS - 1 do
  local at = 3 + index * 3
  local window, limit, amount = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local used, newest, counting = read(index, window)
  if refused == 0 and amount > 0 and used + amount > limit then
    refused = index
    retry = wait(window, counting, used, limit, amount)
  end
  slots[index] = {used, newest}
end
if commit and refused == 0 then
  redis.call('SET', KEYS[1], 'r' .. text(now), 'PX', ARGV[2])
  for index = 1, #KEYS - 1 do
    local at = 3 + index * 3
    local window, amount = ARGV[at], ARGV[at + 2]
    if tonumber(amount) > 0 then
      slots[index][1] = slots[index][1] + tonumber(amount)
      if window == 'n' then
        redis.call('ZADD', KEYS[index + 1], place_ends, ARGV[4])
        redis.call('PEXPIRE', KEYS[index + 1], ARGV[2])
      else
        local slot = slot_of(window, now)
        slots[index][2] = slot
        add(KEYS[index + 1], window, slot, amount)
      end
    end
  end
end
answer[1], answer[2] = refused, text(retry)
for index = 1, #KEYS - 1 do
  local window, newest = ARGV[3 + index * 3], slots[index][2]
  local reset = 0
  if newest > 0 then reset = end_of(window, newest) - now end
  answer[#answer + 1] = text(slots[index][1])
  answer[#answer + 1] = text(reset)
end
return answer
"""
)

SETTLE = (
    _WINDOWS
    + """
-- KEYS: marker, counters. ARGV: months, marker's ms, call id,
-- then window, used, used less reserved for each counter.
local marker = redis.call('GET', KEYS[1])
if marker and string.sub(marker, 1, 1) == 's' then return 0 end
local reserved_at = marker and tonumber(string.sub(marker, 2))
redis.call('SET', KEYS[1], 's', 'PX', ARGV[2])
for index = 1, #KEYS - 1 do
  local at = 1 + index * 3
  local key, window, used, more = KEYS[index + 1], ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if window == 'n' then
    redis.call('ZREM', key, ARGV[3])
  elseif not reserved_at then
    if used ~= '0' then add(key, window, slot_of(window, now), used) end
  elseif tonumber(more) > 0 then
    add(key, window, slot_of(window, now), more)
  elseif tonumber(more) < 0 then
    local slot = text(slot_of(window, reserved_at))
    if redis.call('HEXISTS', key, slot) == 1 then redis.call('HINCRBY', key, slot, more) end
  end
end
return 1
"""
)
