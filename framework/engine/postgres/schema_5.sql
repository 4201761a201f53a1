-- Version 5: groups.

-- The group of a job as a number; null: it has none. `extras` is JSON in ASCII, in which a quote within a text is escaped.
create function {schema}.group_of(extras text) returns bigint language sql immutable parallel safe
  as $$ select hashtextextended(substring(extras from '"group":"((?:[^"\\]|\\.)*)"'), 5) $$;
-- Only jobs with a group are in it, and a claim changes none of its columns.
create index job_group on {schema}.job (queue, {schema}.group_of(extras), place) where extras like '%"group":"%';

-- Jobs that were claimed from groups with a limit. A row counts while its job has an owner; where the order is strict,
-- while its job is in its queue. So settlements and rescues leave it.
create table {schema}.held (queue int not null, grp bigint not null, place bigint not null,
  primary key (queue, grp, place));

-- Answers which jobs of groups a claim takes, at most `room` (null: none), the last group that had a turn, and whether
-- one with jobs had no room. Each group has one turn, then those with room have more. most: jobs of a group at once.
create function {schema}.pick_1(q int, behind bigint, room int, most int, strict boolean, moment float8,
    out picked tid[], out last bigint, out short boolean)
  language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  g bigint; g0 bigint := behind; again boolean := false; turns bigint[] := '{{}}'; lasts bigint[] := '{{}}';
  rooms int[] := '{{}}'; left_ int; first_ bigint; at tid; p bigint; before int;
begin
  picked := '{{}}'; last := behind; short := false;
  while cardinality(picked) < room loop
    select {schema}.group_of(extras) into g from {schema}.job where queue = q and extras like '%"group":"%'
      and {schema}.group_of(extras) > g0 order by queue, {schema}.group_of(extras) limit 1;
    if not found then
      exit when again;
      again := true; g0 := -9223372036854775808;
      continue;
    end if;
    exit when again and g > behind;
    g0 := g;
    left_ := room; first_ := null;
    if most is not null then
      delete from {schema}.held h where h.queue = q and h.grp = g
        and not exists (select from {schema}.job j where j.queue = q and j.place = h.place
          and (strict or j.owner is not null))
        and not (strict and exists (select from {schema}.later l where l.queue = q and l.place = h.place));
      select most - count(*), min(h.place) into left_, first_ from {schema}.held h where h.queue = q and h.grp = g;
    end if;
    if left_ > 0 then
      select ctid, place into at, p from {schema}.job where queue = q and extras like '%"group":"%'
        and {schema}.group_of(extras) = g and owner is null and (expires_at is null or expires_at > moment)
        order by queue, {schema}.group_of(extras), place limit 1 for update skip locked;
    else
      at := null;
      if strict then  -- the job that was claimed is the next one, if it waits again
        select ctid, place into at, p from {schema}.job where queue = q and place = first_ and owner is null
          and (expires_at is null or expires_at > moment) for update skip locked;
      end if;
      short := short or at is null;
    end if;
    if at is not null then
      picked := picked || at; last := g;
      turns := turns || g; lasts := lasts || p; rooms := rooms || (left_ - 1);
    end if;
  end loop;
  loop
    before := cardinality(picked);
    for i in 1 .. cardinality(turns) loop
      exit when cardinality(picked) >= room;
      continue when rooms[i] <= 0;
      select ctid, place into at, p from {schema}.job where queue = q and extras like '%"group":"%'
        and {schema}.group_of(extras) = turns[i] and place > lasts[i] and owner is null
        and (expires_at is null or expires_at > moment)
        order by queue, {schema}.group_of(extras), place limit 1 for update skip locked;
      if at is null then
        rooms[i] := 0;
      else
        picked := picked || at; lasts[i] := p; rooms[i] := rooms[i] - 1;
      end if;
    end loop;
    exit when cardinality(picked) = before;
  end loop;
end $$;

-- As claim_2, for queues of which some have groups; `alone`: look for jobs without a group, too. A row without a place
-- and with an owner says which group of its queue had the last turn.
create function {schema}.claim_3(me text, my_era bigint, queues int[], floors bigint[], most int, max_running int[],
    rates float8[], bursts float8[], holds float8[], canaries float8[], grouped boolean[], of_group int[],
    stricts boolean[], behinds bigint[], alone boolean[]) returns setof {schema}.job
  language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  q int; taken int; room int; used int; moment float8; tokens float8; wait float8; canary boolean;
  shared {schema}.throttle; told {schema}.job; picked tid[]; turns tid[]; behind bigint; short boolean;
  rounding constant float8 := 1e-6;
begin
  if max_running = array_fill(null::int, array[cardinality(queues)]) then
    perform set_config('synchronous_commit', 'off', true);
  end if;
  perform {schema}.check_1(me, my_era);
  insert into {schema}.throttle (queue) select one from unnest(queues, max_running, rates, holds, of_group)
      as u(one, m, r, h, g)
    where coalesce(m, r, h, g) is not null and not exists (select from {schema}.throttle t where t.queue = one)
    on conflict do nothing;
  perform from {schema}.throttle t where t.queue = any(queues) order by t.queue for update;
  moment := {schema}.clock();
  for i in 1 .. cardinality(queues) loop
    q := queues[i];
    continue when exists (select from {schema}.pause p where p.queue = q and p.paused);
    room := most; wait := 0; canary := false;
    select * into shared from {schema}.throttle t where t.queue = q;
    if shared.held_until > moment and shared.held_until <= moment + holds[i] + rounding then
      canary := shared.canary_at <= moment or shared.canary_at > moment + canaries[i] + rounding;
      room := canary::int;
      wait := least(shared.canary_at, shared.held_until) - moment;
    end if;
    if room > 0 and rates[i] is not null then
      shared.empty_at := greatest(shared.empty_at, moment - bursts[i] / rates[i]);
      if shared.empty_at > moment + 1 then  -- the clock was set back
        shared.empty_at := moment;
      end if;
      tokens := (moment - shared.empty_at + rounding) * rates[i];
      room := least(room, floor(tokens));
      wait := (1 - tokens) / rates[i];
    end if;
    if room > 0 and max_running[i] is not null then
      select count(*) into used from {schema}.running r where r.queue = q;
      if max_running[i] - used < room then
        delete from {schema}.running r where r.queue = q and not exists (
          select from {schema}.job j where j.queue = q and j.place = r.place and j.owner is not null);
        get diagnostics taken = row_count;
        used := used - taken;
      end if;
      room := least(room, max_running[i] - used);
      wait := 0.1;
    end if;
    taken := 0; behind := null; short := false; picked := '{{}}';
    if room > 0 then
      if not grouped[i] or alone[i] then
        picked := array(select ctid from {schema}.job where queue = q and owner is null
          and (expires_at is null or expires_at > moment)
          and case when grouped[i] then extras is null or extras not like '%"group":"%' else place > floors[i] end
          order by queue, place limit room for update skip locked);
      end if;
      if grouped[i] and cardinality(picked) < room then
        select p.picked, p.last, p.short into turns, behind, short
          from {schema}.pick_1(q, behinds[i], room - cardinality(picked), of_group[i], stricts[i], moment) p;
        picked := picked || turns;
      end if;
      return query with claimed as (
          update {schema}.job set owner = me, claimer = null, delivery = delivery + 1, since = moment
          where ctid = any(picked) returning *),
        noted as (insert into {schema}.running select queue, place from claimed where max_running[i] is not null
          on conflict do nothing),
        of_groups as (insert into {schema}.held select queue, {schema}.group_of(extras), place from claimed
          where grouped[i] and of_group[i] is not null and extras like '%"group":"%' on conflict do nothing)
        select * from claimed;
      get diagnostics taken = row_count;
      if taken > 0 and (canary or rates[i] is not null) then
        update {schema}.throttle t set empty_at = shared.empty_at + coalesce(taken / rates[i], 0),
          canary_at = case when canary then moment + canaries[i] else t.canary_at end where t.queue = q;
      end if;
    end if;
    if room <= 0 or (canary and taken > 0) then
      told := null;
      told.queue := q; told.eligible_at := wait; told.delivery := (room > 0)::int;
      return next told;
    elsif taken = 0 and short then
      told := null;
      told.queue := q; told.eligible_at := 0.1; told.delivery := 0;
      return next told;
    end if;
    if behind is not null then
      told := null;
      told.queue := q; told.owner := behind; told.delivery := 0;
      return next told;
    end if;
    most := most - taken;
    exit when most <= 0;
  end loop;
end $$;

-- Deletes rows of `held` that count for nothing any more; answers how many.
create function {schema}.forget_held_1(most int) returns bigint language sql volatile set enable_seqscan = on as $$
  with gone as (delete from {schema}.held where ctid = any(array(
    select h.ctid from {schema}.held h where not exists (
        select from {schema}.job j where j.queue = h.queue and j.place = h.place)
      and not exists (select from {schema}.later l where l.queue = h.queue and l.place = h.place)
    limit most for update skip locked)) returning 1) select count(*) from gone
$$;
