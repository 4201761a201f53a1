-- Version 5: groups and fan-ins.

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

-- Fan-ins -----------------------------------------------------------------------------------------------------------

-- A fan-in by the id of its follow-up, which is kept as the document for enqueue_1. of_queue: that of its members.
-- grown: how many members there are so far. members: the same once it is sealed, else null. touched: when it has grown,
-- or a member has ended, or was looked for.
create table {schema}.fan_in (name text collate "C" primary key, of_queue int not null, grown int not null default 0,
  members int, touched double precision not null, follow_up text not null, succeeded int not null default 0,
  discarded int not null default 0, dead int not null default 0, cancelled int not null default 0,
  unknown int not null default 0);
-- The members that have not ended. So a member ends once, whoever ends it again.
create table {schema}.member (fan_in text collate "C" not null, number int not null, primary key (fan_in, number));

-- Which member of which fan-in the extras of a job name, as name/number; null: of none. A quote within a value is
-- escaped, so only a field can look like this.
create function {schema}.member_1(extras text) returns text language sql immutable
  as $$ select substring(extras from '"fan_in":"([0-9a-f]{{32}}/[0-9]{{1,9}})"') $$;

-- Enqueues the follow-up if all members have ended. The caller has the lock of the fan-in's row.
create function {schema}.fire_fan_in_1(ident text) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off as $$
declare f {schema}.fan_in; job jsonb; extras text; counts text; moment double precision := {schema}.clock(); q int;
begin
  select * into f from {schema}.fan_in where name = ident and members is not null
    and not exists (select from {schema}.member where fan_in = ident);
  if not found then
    return;
  end if;
  job := f.follow_up::jsonb -> 'jobs' -> 0;
  q := job ->> 'queue';
  extras := job ->> 'extras';
  select '"ended":{{' || coalesce(string_agg('"' || how || '":' || n, ','), '') || '}}}}' into counts
    from (values ('succeeded', f.succeeded), ('discarded', f.discarded), ('dead', f.dead), ('cancelled', f.cancelled),
      ('unknown', f.unknown)) as ends(how, n) where n > 0;
  job := job || jsonb_build_object('enqueued_at', moment, 'eligible_at', moment, 'not_before', null,
    'expires_at', moment + (job ->> 'ttl')::float8,
    'extras', case when extras is null then '{{' else left(extras, -1) || ',' end || counts);
  perform {schema}.enqueue_1(jsonb_build_object('jobs', jsonb_build_array(job))::text);
  perform pg_notify('{plain}_' || q, 'below');
  delete from {schema}.fan_in where name = ident;
end $$;

-- Ends these members, each once, and enqueues the follow-ups of those fan-ins whose last member this was. The locks are
-- taken in one order, so that no two calls wait for each other. members: as member_1 answers; null: no member.
create function {schema}.end_1(members text[], hows text[]) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare one text;
begin
  for one in select distinct split_part(m, '/', 1) from unnest(members) as m where m is not null order by 1 loop
    perform from {schema}.fan_in where name = one for update;
    continue when not found;
    with gone as (
        delete from {schema}.member d using unnest(members, hows) as u(m, how)
        where split_part(u.m, '/', 1) = one and d.fan_in = one and d.number = split_part(u.m, '/', 2)::int
        returning u.how),
      counts as (select count(*) as every, count(*) filter (where how = 'succeeded') as s,
        count(*) filter (where how = 'discarded') as i, count(*) filter (where how = 'dead') as d,
        count(*) filter (where how = 'cancelled') as c, count(*) filter (where how = 'unknown') as u from gone)
      update {schema}.fan_in set succeeded = succeeded + s, discarded = discarded + i, dead = dead + d,
        cancelled = cancelled + c, unknown = unknown + u, touched = {schema}.clock()
      from counts where name = one and every > 0;
    if found then
      perform {schema}.fire_fan_in_1(one);
    end if;
  end loop;
end $$;

-- Ends the members among those jobs that were settled; `settled` and `places` are places of jobs. Answers `settled`.
create function {schema}.settled_1(settled bigint[], places bigint[], members text[], hows text[]) returns setof bigint
  language plpgsql as $$
begin
  perform {schema}.end_1(array_agg(u.m), array_agg(u.how)) from unnest(places, members, hows) as u(place, m, how)
    where u.m is not null and u.place = any(settled);
  return query select unnest(settled);
end $$;

-- Every job that is cancelled comes here, whichever function has set it aside.
create function {schema}.member_cancelled_1() returns trigger language plpgsql as $$
begin
  perform {schema}.end_1(array[{schema}.member_1(new.extras)], array['cancelled']);
  return null;
end $$;
create trigger member_cancelled after insert on {schema}.cancelled for each row
  when (new.extras like '%"fan_in":"%') execute function {schema}.member_cancelled_1();

-- As complete_1, for a member.
create function {schema}.complete_2(document text) returns text language plpgsql as $$
declare answer text := {schema}.complete_1(document);
begin
  if answer = 'done' then
    perform {schema}.end_1(array[document::jsonb ->> 'member'], array['succeeded']);
  end if;
  return answer;
end $$;

create function {schema}.grow_fan_in_1(ident text, count int) returns boolean language plpgsql as $$
begin
  perform from {schema}.fan_in where name = ident for update;
  if not found then
    return false;
  end if;
  insert into {schema}.member select ident, generate_series(grown, count - 1) from {schema}.fan_in
    where name = ident and members is null;
  update {schema}.fan_in set grown = greatest(grown, count), touched = {schema}.clock()
    where name = ident and members is null;
  return true;
end $$;

create function {schema}.seal_fan_in_1(ident text, count int) returns boolean language plpgsql as $$
begin
  update {schema}.fan_in set members = count where name = ident;
  if not found then
    return false;
  end if;
  perform {schema}.fire_fan_in_1(ident);
  return true;
end $$;

-- Deletes fan-ins that were not sealed in time, and ends members of sealed ones that have left unseen: their jobs
-- neither wait nor run. Answers how many fan-ins it has looked at.
create function {schema}.mend_fan_ins_1(given_up double precision, mend_after double precision) returns int
  language plpgsql as $$
declare f {schema}.fan_in; lost text[]; looked int := 0; moment double precision := {schema}.clock();
begin
  with gone as (delete from {schema}.fan_in where members is null and touched <= moment - given_up returning name)
    delete from {schema}.member m using gone where m.fan_in = gone.name;
  for f in select * from {schema}.fan_in where members is not null and touched <= moment - mend_after
      order by touched limit 10 loop
    looked := looked + 1;
    with alive as (
        select {schema}.member_1(extras) as m from {schema}.job where queue = f.of_queue and extras like '%"fan_in":"%'
        union all
        select {schema}.member_1(extras) from {schema}.later where queue = f.of_queue and extras like '%"fan_in":"%')
      select array_agg(f.name || '/' || number) into lost from {schema}.member
      where fan_in = f.name and f.name || '/' || number not in (select m from alive where m is not null);
    if lost is not null then
      perform {schema}.end_1(lost, array_fill('unknown'::text, array[cardinality(lost)]));
    else
      update {schema}.fan_in set touched = moment where name = f.name;
    end if;
  end loop;
  return looked;
end $$;
