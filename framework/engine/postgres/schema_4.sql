-- Version 4: declarations of services, cancelled jobs, limits over all processes, unique keys.

-- Which services declare which queues: what each said last, and when; seen is 0 once it has stopped in good order.
create table {schema}.service (name text collate "C" primary key, said text not null, seen double precision not null);

-- Cancelled jobs.

-- cancelled: the job was cancelled while a worker had it; where it would be put back, it is set aside instead.
alter table {schema}.job add column cancelled boolean not null default false;
-- Cancelled jobs. Their ids are free, so none counts as chosen.
create table {schema}.cancelled (like {schema}.dead including defaults, primary key (queue, place));
create index cancelled_since on {schema}.cancelled (queue, since);
create index cancelled_id on {schema}.cancelled (id);

-- Stores rows, which were deleted from their tables, as cancelled jobs, and frees their ids.
create function {schema}.set_aside_1(gone jsonb) returns void language plpgsql as $$
begin
  delete from {schema}.ids i using jsonb_populate_recordset(null::{schema}.cancelled, gone) g
    where g.chosen and i.queue = g.home and i.id = g.id;
  insert into {schema}.cancelled (queue, place, attempt, delivery, lost, lost_at, eligible_at, since, home, id, uid,
      payload, headers, extras, enqueued_at, not_before, ttl, scheduled_for, history)
    select queue, place, attempt, delivery, lost, lost_at, eligible_at, {schema}.clock(), home, id, uid, payload,
      headers, extras, enqueued_at, not_before, ttl, scheduled_for, history
    from jsonb_populate_recordset(null::{schema}.cancelled, gone);
end $$;

-- Cancels a job wherever it is: answers cancelled, stopping or gone. The update waits for a settlement that is under
-- way, and a claim passes over the row meanwhile. A job that has moved is looked for again.
create function {schema}.cancel_1(q int, at bigint, ident bytea) returns text
  language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
declare gone jsonb; holder text;
begin
  for i in 1 .. 3 loop
    update {schema}.job set cancelled = true where queue = q and place = at and uid = ident and home = q
      returning owner into holder;
    if found and holder is not null then
      return 'stopping';
    elsif found then
      with deleted as (delete from {schema}.job where queue = q and place = at returning *)
        select jsonb_agg(to_jsonb(deleted)) into gone from deleted;
    else
      with deleted as (delete from {schema}.later where queue = q and place = at and uid = ident and home = q returning *)
        select jsonb_agg(to_jsonb(deleted)) into gone from deleted;
    end if;
    if gone is not null then
      perform {schema}.set_aside_1(gone);
    end if;
    if exists (select from {schema}.cancelled where queue = q and place = at and uid = ident) then
      return 'cancelled';
    end if;
  end loop;
  return 'gone';
end $$;

-- Sets aside those of an owner's leases that were cancelled, or all of them; answers their places.
create function {schema}.aside_1(me text, queues int[], places bigint[], deliveries int[], histories text[], every boolean)
  returns setof bigint language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare gone jsonb; done bigint[];
begin
  with deleted as (
      delete from {schema}.job j using unnest(queues, places, deliveries, histories) as u(queue, place, delivery, told)
      where j.queue = u.queue and j.place = u.place and j.delivery = u.delivery and j.owner = me
        and (j.cancelled or every) returning j.*, u.told)
    select jsonb_agg(to_jsonb(deleted) || jsonb_build_object('history', coalesce(told, history))), array_agg(place)
      into gone, done from deleted;
  if gone is not null then
    perform {schema}.set_aside_1(gone);
  end if;
  return query select unnest(done);
end $$;

-- As in version 2; answers also which of the runs were cancelled.
create function {schema}.started_2(me text, queues int[], places bigint[], deliveries int[])
  returns table (place bigint, cancelled boolean)
  language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
begin
  perform set_config('synchronous_commit', 'off', true);
  update {schema}.job set started = delivery where ctid = any(array(
    select j.ctid from {schema}.job j join unnest(queues, places, deliveries) as u(queue, place, delivery)
      using (queue, place, delivery) where j.owner = me and j.started <> j.delivery for update of j skip locked));
  return query select j.place, j.cancelled from {schema}.job j
    join unnest(queues, places, deliveries) as u(queue, place, delivery) using (queue, place, delivery)
    where j.owner = me;
end $$;

-- As in version 1, but for cancelled jobs. They are looked for last: a cancellation may come meanwhile.
create or replace function {schema}.release_1(me text, queues int[], places bigint[], deliveries int[])
  returns setof bigint language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare done int;
begin
  perform set_config('synchronous_commit', 'off', true);
  return query update {schema}.job j set owner = null, claimer = null, since = {schema}.clock()
    from unnest(queues, places, deliveries) as u(queue, place, delivery)
    where j.queue = u.queue and j.place = u.place and j.delivery = u.delivery and j.owner = me and not j.cancelled
    returning j.place;
  get diagnostics done = row_count;
  if done < cardinality(places) then
    return query select {schema}.aside_1(me, queues, places, deliveries, null, false);
  end if;
end $$;

create or replace function {schema}.move_1(me text, queues int[], places bigint[], deliveries int[], states text[],
    targets int[], delays double precision[], attempts int[], histories text[]) returns setof bigint
  language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare moment double precision := {schema}.clock(); done int;
begin
  return query with gone as (
      delete from {schema}.job j using unnest(queues, places, deliveries, states, targets, delays, attempts, histories)
        as u(queue, place, delivery, state, target, delay, new_attempt, new_history)
      where j.queue = u.queue and j.place = u.place and j.delivery = u.delivery and j.owner = me and not j.cancelled
      returning j.*, u.state, u.target, u.delay, u.new_attempt, u.new_history),
    moved as (select *, coalesce(moment + delay, eligible_at) as eligible,
        case when target <> home then null else expires_at end as expires,
        case when target = queue then place else ((place >> 56) << 56) + nextval('{schema}.place') end as new_place,
        coalesce(new_history, history) as all_history from gone),
    to_later as (insert into {schema}.later (queue, place, attempt, delivery, lost, lost_at, eligible_at, expires_at,
        since, home, id, uid, chosen, payload, headers, extras, enqueued_at, not_before, ttl, scheduled_for, history, due)
      select target, new_place, new_attempt, delivery, lost, lost_at, eligible, expires, moment, home, id, uid, chosen,
        payload, headers, extras, enqueued_at, not_before, ttl, scheduled_for, all_history, least(eligible, expires)
      from moved where state = 'later'),
    to_job as (insert into {schema}.job (queue, place, attempt, delivery, lost, lost_at, eligible_at, expires_at,
        since, home, id, uid, chosen, payload, headers, extras, enqueued_at, not_before, ttl, scheduled_for, history)
      select target, new_place, new_attempt, delivery, lost, lost_at, eligible, expires, moment, home, id, uid, chosen,
        payload, headers, extras, enqueued_at, not_before, ttl, scheduled_for, all_history
      from moved where state = 'job'),
    to_dead as (insert into {schema}.dead (queue, place, attempt, delivery, lost, lost_at, eligible_at, expires_at,
        since, home, id, uid, chosen, payload, headers, extras, enqueued_at, not_before, ttl, scheduled_for, history)
      select target, new_place, new_attempt, delivery, lost, lost_at, eligible, null, moment, home, id, uid, chosen,
        payload, headers, extras, enqueued_at, not_before, ttl, scheduled_for, all_history
      from moved where state = 'dead')
    select place from gone;
  get diagnostics done = row_count;
  if done < cardinality(places) then
    return query select {schema}.aside_1(me, queues, places, deliveries, histories, false);
  end if;
end $$;

-- Limits of queues over all processes.

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

-- Unique keys -----------------------------------------------------------------------------------------------------
-- The job that took a key last; `key` is a hash. It holds the key while its row is where `until` says, or until `ends`.
-- So no statement that settles a job looks here; rows of jobs that are gone are deleted now and then.
create table {schema}.unique_key (queue int not null, key text collate "C" not null, id text collate "C" not null,
  uid bytea not null, until text not null, ends double precision, primary key (queue, key));

-- Gives a key to a job, and answers null; or answers the id of the job that holds it.
create function {schema}.hold_key_1(q int, k text, new_id text, new_uid bytea, new_until text, seconds float8) returns text
  language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
declare known {schema}.unique_key; new_ends double precision := {schema}.clock() + seconds;
begin
  loop
    insert into {schema}.unique_key values (q, k, new_id, new_uid, new_until, new_ends) on conflict do nothing;
    if found then
      return null;
    end if;
    select * into known from {schema}.unique_key where queue = q and key = k for update;
    continue when not found;
    if known.ends > {schema}.clock() or (known.ends is null and (
        exists (select from {schema}.job where id = known.id and uid = known.uid and queue = q
          and (owner is null or known.until <> 'started'))
        or exists (select from {schema}.later where id = known.id and uid = known.uid and queue = q))) then
      return known.id;
    end if;
    update {schema}.unique_key set id = new_id, uid = new_uid, until = new_until, ends = new_ends
      where queue = q and key = k;
    return null;
  end loop;
end $$;

-- Gives payload and headers of an enqueued job to the one that holds its key, if that was never claimed; where it is to
-- be postponed, also the time. A promotion may move it meanwhile, so this looks for it three times.
create function {schema}.change_1(q int, k text, j jsonb) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  known {schema}.unique_key; later boolean := j ->> 'on_conflict' = 'postpone';
  data bytea := decode(j ->> 'payload', 'base64'); eligible float8 := j ->> 'eligible_at';
  expires float8 := j ->> 'expires_at'; seconds float8 := j ->> 'ttl'; due_at float8 := least(eligible, expires);
begin
  select * into known from {schema}.unique_key where queue = q and key = k;
  for i in 1 .. 3 loop
    if later then
      with gone as (delete from {schema}.job where id = known.id and uid = known.uid and queue = q and owner is null
        and delivery = 0 returning *)
      insert into {schema}.later (queue, place, eligible_at, expires_at, since, home, id, uid, chosen, payload, headers,
          extras, enqueued_at, not_before, ttl, scheduled_for, due)
        select queue, place, eligible, expires, {schema}.clock(), home, id, uid, chosen, data, j ->> 'headers', extras,
          enqueued_at, eligible, seconds, scheduled_for, due_at from gone;
      exit when found;
      update {schema}.later set payload = data, headers = j ->> 'headers', eligible_at = eligible, expires_at = expires,
        not_before = eligible, ttl = seconds, due = due_at
        where id = known.id and uid = known.uid and queue = q and delivery = 0;
    else
      update {schema}.job set payload = data, headers = j ->> 'headers'
        where id = known.id and uid = known.uid and queue = q and owner is null and delivery = 0;
      exit when found;
      update {schema}.later set payload = data, headers = j ->> 'headers'
        where id = known.id and uid = known.uid and queue = q and delivery = 0;
    end if;
    exit when found;
  end loop;
end $$;

-- As enqueue_1, for jobs of which some have a unique key; answers also `held` with the id of the job that holds it. The
-- locks are taken in one order, so that no two calls wait for each other.
create function {schema}.enqueue_2(document text) returns table (number int, answer text) language plpgsql
  set lock_timeout = '1s' set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
  doc jsonb := document::jsonb; jobs jsonb := doc -> 'jobs'; j jsonb; q text; n int := 0; told text;
begin
  begin
    perform pg_advisory_xact_lock(one) from (
      select distinct hashtextextended((e ->> 'queue') || ' ' || (e ->> 'unique'), 3) as one
      from jsonb_array_elements(jobs) e where e ? 'unique' order by 1) locks;
  exception when lock_not_available or deadlock_detected then
    return query select 1, 'locked';
    return;
  end;
  doc := jsonb_set(doc - 'jobs', '{{rooms}}', coalesce(doc -> 'rooms', '{{}}'));
  for j in select * from jsonb_array_elements(jobs) loop
    n := n + 1;
    q := j ->> 'queue';
    told := null;
    if j ? 'unique' then
      told := 'held ' || {schema}.hold_key_1(q::int, j ->> 'unique', j ->> 'id', decode(j ->> 'uid', 'base64'),
        j ->> 'until', (j ->> 'window')::float8);
      if told is not null and j ? 'on_conflict' then
        perform {schema}.change_1(q::int, j ->> 'unique', j);
      end if;
    end if;
    if told is null then
      if doc -> 'most' ? q and not doc -> 'rooms' ? q then
        doc := jsonb_set(doc, array['rooms', q], to_jsonb({schema}.room_1(q::int, (doc -> 'most' ->> q)::int)));
      end if;
      select answer into told from {schema}.enqueue_1((doc || jsonb_build_object('jobs', jsonb_build_array(j)))::text);
      if told = 'stored' and doc -> 'rooms' ? q then
        doc := jsonb_set(doc, array['rooms', q], to_jsonb((doc -> 'rooms' ->> q)::int - 1));
      elsif told <> 'stored' and j ? 'unique' then
        delete from {schema}.unique_key where queue = q::int and key = j ->> 'unique' and id = j ->> 'id';
      end if;
    end if;
    return query select n, told;
    exit when told in ('full', 'locked');
  end loop;
end $$;

-- Deletes keys that no job holds and that none will hold again by itself; answers how many.
create function {schema}.forget_keys_1(most int) returns bigint language sql volatile
  set enable_seqscan = on as $$
  with gone as (delete from {schema}.unique_key where ctid = any(array(
    select k.ctid from {schema}.unique_key k where k.ends <= {schema}.clock() or (k.ends is null
      and not exists (select from {schema}.job where id = k.id and uid = k.uid and queue = k.queue)
      and not exists (select from {schema}.later where id = k.id and uid = k.uid and queue = k.queue))
    limit most for update skip locked)) returning 1) select count(*) from gone
$$;
-- End of unique keys ------------------------------------------------------------------------------------------------
