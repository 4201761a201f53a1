-- Version 4: limits of queues over all processes.

-- What all processes share about a queue with limits. empty_at: when its bucket of tokens was empty.
create table {schema}.throttle (queue int primary key, empty_at double precision not null default 0,
  held_until double precision not null default 0, canary_at double precision not null default 0);
-- Claimed jobs of queues with max_running. A row counts as long as its job has an owner; settlements leave it.
create table {schema}.running (queue int not null, place bigint not null, primary key (queue, place));

create function {schema}.hold_1(q int, seconds double precision, canary double precision) returns void
  language plpgsql as $$
declare moment double precision := {schema}.clock();
begin
  insert into {schema}.throttle
    values (q, 0, case when seconds > 0 then moment + seconds else 0 end, moment + canary)
    on conflict (queue) do update set held_until = excluded.held_until, canary_at = excluded.canary_at;
end $$;

-- As claim_1, for queues of which some have limits (null: none). A row without a place says about its queue: there is no
-- room for eligible_at seconds, or the job is a canary (delivery 1). The rows of throttle are locked in their order.
create function {schema}.claim_2(me text, my_era bigint, queues int[], floors bigint[], most int, max_running int[],
    rates float8[], bursts float8[], holds float8[], canaries float8[]) returns setof {schema}.job
  language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  q int; taken int; room int; used int; moment float8; tokens float8; wait float8; canary boolean;
  shared {schema}.throttle; told {schema}.job; rounding constant float8 := 1e-6;
begin
  if max_running = array_fill(null::int, array[cardinality(queues)]) then  -- else a crash must not undo this claim
    perform set_config('synchronous_commit', 'off', true);
  end if;
  perform {schema}.check_1(me, my_era);
  insert into {schema}.throttle (queue) select one from unnest(queues, max_running, rates, holds) as u(one, m, r, h)
    where coalesce(m, r, h) is not null and not exists (select from {schema}.throttle t where t.queue = one)
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
    taken := 0;
    if room > 0 then
      return query with claimed as (
          update {schema}.job set owner = me, claimer = null, delivery = delivery + 1, since = moment
          where ctid = any(array(
            select ctid from {schema}.job where queue = q and place > floors[i] and owner is null
              and (expires_at is null or expires_at > moment)
            order by queue, place limit room for update skip locked)) returning *),
        noted as (insert into {schema}.running select queue, place from claimed where max_running[i] is not null
          on conflict do nothing)
        select * from claimed;
      get diagnostics taken = row_count;
      if taken > 0 and (canary or rates[i] is not null) then
        update {schema}.throttle t set empty_at = shared.empty_at + coalesce(taken / rates[i], 0),
          canary_at = case when canary then moment + canaries[i] else t.canary_at end where t.queue = q;
      end if;
    end if;
    if room <= 0 or (canary and taken > 0) then
      told.queue := q; told.eligible_at := wait; told.delivery := (room > 0)::int;
      return next told;
    end if;
    most := most - taken;
    exit when most <= 0;
  end loop;
end $$;
