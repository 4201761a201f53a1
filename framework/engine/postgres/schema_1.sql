-- Version 1. {schema} is the schema's name, quoted. Moments are seconds since the epoch, by the database's clock.
create schema if not exists {schema};
create table {schema}.version (version int primary key, since timestamptz not null default now());

-- seen: when a running service that declares it kept house last.
create table {schema}.queue (
  id int generated always as identity primary key, name text not null unique, seen double precision not null default 0);
-- The services that handle a dead-letter queue.
create table {schema}.handler (queue int not null, service text not null, primary key (queue, service));

-- A node is what shares a local directory: the processes of one machine. Its maintenance beats for all of them.
create table {schema}.node (id text primary key, beat double precision not null, host text not null);
-- A process that claims. era: changes with each of its connections; -1: its claims were taken over.
create table {schema}.owner (id text primary key, node text not null, era bigint not null);
create table {schema}.leader (name text primary key, owner text not null);

-- Ready (no owner) and in flight. A place is unique, and in the order of enqueue within a priority: its upper bits are
-- the priority, counted from the usual one. Half of each page stays free, so a claim changes a row within its page.
create sequence {schema}.place;
create table {schema}.job (
  queue int not null, place bigint not null default nextval('{schema}.place'),
  owner text,                                  -- who may settle it
  claimer text,                                -- who claimed it, where the owner has it from a rescue
  attempt int not null default 0, delivery int not null default 0,
  lost int not null default 0, lost_at int not null default 0,  -- deliveries that nothing accounts for, and the last one
  eligible_at double precision not null, expires_at double precision, since double precision not null,
  home int not null, id text collate "C" not null, uid bytea not null, chosen boolean not null default false,
  payload bytea not null, headers text, extras text, enqueued_at double precision not null,
  not_before double precision, ttl double precision, scheduled_for double precision, history text,
  primary key (queue, place)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0);
create index job_expires on {schema}.job (expires_at) where expires_at is not null;
-- due: when it is to be looked at, because it is eligible or expires.
create table {schema}.later (like {schema}.job including defaults, due double precision not null,
  primary key (queue, place)) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
create index later_due on {schema}.later (due);
create table {schema}.dead (like {schema}.job including defaults, primary key (queue, place));
create index dead_since on {schema}.dead (queue, since);
create table {schema}.ids (queue int not null, id text collate "C" not null, primary key (queue, id));

create function {schema}.clock() returns double precision language sql volatile
  as $$ select extract(epoch from clock_timestamp())::double precision $$;

-- Once this returns no older statement of an owner is under way, and none that is still to come does anything.
create function {schema}.register_1(me text, my_node text, host text, new_era bigint) returns void language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtextextended(me, 0));
  insert into {schema}.node values (my_node, {schema}.clock(), host)
    on conflict (id) do update set beat = excluded.beat, host = excluded.host;
  insert into {schema}.owner values (me, my_node, new_era)
    on conflict (id) do update set era = new_era, node = my_node;
end $$;

create function {schema}.check_1(me text, my_era bigint) returns void language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(hashtextextended(me, 0));
  if not exists (select from {schema}.owner where id = me and era = my_era) then
    raise exception 'the owner % was taken for dead', me using errcode = 'WK001';
  end if;
end $$;

-- The planner's settings: a plan that was made while the table was tiny must not read it whole once it is not.
create function {schema}.claim_1(me text, my_era bigint, queues int[], floors bigint[], most int)
  returns setof {schema}.job language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare taken int; moment double precision := {schema}.clock();
begin
  perform set_config('synchronous_commit', 'off', true);
  perform {schema}.check_1(me, my_era);
  for i in 1 .. cardinality(queues) loop
    return query update {schema}.job set owner = me, claimer = null, delivery = delivery + 1, since = moment
      where ctid = any(array(
        select ctid from {schema}.job where queue = queues[i] and place > floors[i] and owner is null
          and (expires_at is null or expires_at > moment)
        order by queue, place limit most for update skip locked)) returning *;
    get diagnostics taken = row_count;
    most := most - taken;
    exit when most <= 0;
  end loop;
end $$;

create function {schema}.ack_1(me text, queues int[], places bigint[], deliveries int[]) returns setof bigint
  language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  return query with gone as (
      delete from {schema}.job j using unnest(queues, places, deliveries) as u(queue, place, delivery)
      where j.queue = u.queue and j.place = u.place and j.delivery = u.delivery and j.owner = me
      returning j.place, j.home, j.id, j.chosen),
    freed as (delete from {schema}.ids i using gone where gone.chosen and i.queue = gone.home and i.id = gone.id)
    select place from gone;
end $$;

create function {schema}.release_1(me text, queues int[], places bigint[], deliveries int[]) returns setof bigint
  language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  return query update {schema}.job j set owner = null, claimer = null, since = {schema}.clock()
    from unnest(queues, places, deliveries) as u(queue, place, delivery)
    where j.queue = u.queue and j.place = u.place and j.delivery = u.delivery and j.owner = me returning j.place;
end $$;

-- Retries, dead letters and releases with a delay: out of `job`, into where they belong.
-- states: later, job or dead. delays: null leaves since when it is eligible.
create function {schema}.move_1(me text, queues int[], places bigint[], deliveries int[], states text[], targets int[],
    delays double precision[], attempts int[], histories text[]) returns setof bigint
  language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare moment double precision := {schema}.clock();
begin
  return query with gone as (
      delete from {schema}.job j using unnest(queues, places, deliveries, states, targets, delays, attempts, histories)
        as u(queue, place, delivery, state, target, delay, new_attempt, new_history)
      where j.queue = u.queue and j.place = u.place and j.delivery = u.delivery and j.owner = me
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
end $$;

-- Takes over what dead owners hold on these queues; those that hold nothing then are forgotten.
-- again: also what this owner has rescued before, whose answer was lost.
create function {schema}.rescue_1(me text, my_era bigint, gone text[], queues int[], again boolean)
  returns setof {schema}.job language plpgsql as $$
declare one text;
begin
  perform {schema}.check_1(me, my_era);
  for one in select * from unnest(gone) as names order by 1 loop
    perform pg_advisory_xact_lock(hashtextextended(one, 0));
  end loop;
  update {schema}.owner set era = -1 where id = any(gone);
  return query update {schema}.job set claimer = coalesce(claimer, owner), owner = me
    where (owner = any(gone) and queue = any(queues)) or (again and owner = me and claimer is not null) returning *;
  delete from {schema}.owner o where id = any(gone) and not exists (select from {schema}.job where owner = o.id);
end $$;

create function {schema}.promote_1(most int) returns setof int
  language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  return query with ripe as (
    delete from {schema}.later where ctid = any(array(
      select ctid from {schema}.later where due <= {schema}.clock() order by due limit most for update skip locked))
    returning *)
  insert into {schema}.job (queue, place, attempt, delivery, lost, lost_at, eligible_at, expires_at, since,
      home, id, uid, chosen, payload, headers, extras, enqueued_at, not_before, ttl, scheduled_for, history)
    select queue, place, attempt, delivery, lost, lost_at, eligible_at, expires_at, due,
      home, id, uid, chosen, payload, headers, extras, enqueued_at, not_before, ttl, scheduled_for, history from ripe
    returning queue;
end $$;

-- Takes what has expired, as a claim does, but no delivery is counted: it is to become a dead letter.
create function {schema}.expire_1(me text, my_era bigint, queues int[], most int) returns setof {schema}.job
  language plpgsql set enable_seqscan = off as $$
begin
  perform {schema}.check_1(me, my_era);
  return query update {schema}.job set owner = me, claimer = null where ctid = any(array(
    select ctid from {schema}.job where expires_at <= {schema}.clock() and owner is null and queue = any(queues)
    order by expires_at limit most for update skip locked)) returning *;
end $$;

-- below: there is something whose place is not the last one.
create function {schema}.tell_1(queues int[], below boolean) returns void language plpgsql as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  for i in 1 .. cardinality(queues) loop
    perform pg_notify('{plain}_' || queues[i], case when below then 'below' else '' end);
  end loop;
end $$;

-- One text parameter, so every driver can call it, also within a transaction of its caller; it answers instead of
-- raising, so that transaction goes on. rooms: how many jobs of a queue fit; most: its limit where that is not known.
create function {schema}.enqueue_1(document text) returns table (number int, answer text) language plpgsql
  set lock_timeout = '1s' set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
  doc jsonb := document::jsonb; rooms jsonb := coalesce(doc -> 'rooms', '{{}}'); j jsonb; q int; n int := 0; found_room int;
  told int[] := '{{}}';
  moment double precision := {schema}.clock(); eligible double precision; expires double precision; at bigint;
begin
  for j in select * from jsonb_array_elements(doc -> 'jobs') loop
    n := n + 1;
    q := (j ->> 'queue')::int;
    if (j ->> 'chosen')::boolean then
      begin
        insert into {schema}.ids values (q, j ->> 'id') on conflict do nothing;
        if not found then
          return query select n, 'duplicate';
          continue;
        end if;
      exception when lock_not_available then
        return query select n, 'locked';
        return;
      end;
    end if;
    if not rooms ? q::text and doc -> 'most' ? q::text then
      rooms := rooms || jsonb_build_object(q::text, {schema}.room_1(q, (doc -> 'most' ->> q::text)::int));
    end if;
    found_room := rooms ->> q::text;
    if found_room <= 0 then
      delete from {schema}.ids where queue = q and id = j ->> 'id' and (j ->> 'chosen')::boolean;
      return query select n, 'full';
      return;
    end if;
    rooms := rooms || coalesce(jsonb_build_object(q::text, found_room - 1), '{{}}');
    eligible := j ->> 'eligible_at';
    expires := j ->> 'expires_at';
    at := nextval('{schema}.place') + ((j ->> 'priority')::bigint << 56);
    if eligible > moment then
      insert into {schema}.later (queue, place, eligible_at, expires_at, since, home, id, uid, chosen, payload, headers,
          extras, enqueued_at, not_before, ttl, scheduled_for, due)
        values (q, at, eligible, expires, moment, q, j ->> 'id', decode(j ->> 'uid', 'base64'),
          (j ->> 'chosen')::boolean, decode(j ->> 'payload', 'base64'), j ->> 'headers', j ->> 'extras',
          (j ->> 'enqueued_at')::float8, (j ->> 'not_before')::float8, (j ->> 'ttl')::float8,
          (j ->> 'scheduled_for')::float8, eligible);
    else
      insert into {schema}.job (queue, place, eligible_at, expires_at, since, home, id, uid, chosen, payload, headers,
          extras, enqueued_at, not_before, ttl, scheduled_for)
        values (q, at, eligible, expires, moment, q, j ->> 'id', decode(j ->> 'uid', 'base64'),
          (j ->> 'chosen')::boolean, decode(j ->> 'payload', 'base64'), j ->> 'headers', j ->> 'extras',
          (j ->> 'enqueued_at')::float8, (j ->> 'not_before')::float8, (j ->> 'ttl')::float8,
          (j ->> 'scheduled_for')::float8);
    end if;
    return query select n, 'stored';
    told := told || q;
  end loop;
  if doc ? 'most' then  -- in the caller's transaction: who waits hears of it when that commits
    perform pg_notify('{plain}_' || one, 'below') from (select distinct unnest(told) as one) queues;
  end if;
end $$;

-- How many jobs of a queue fit that holds at most so many ready and delayed ones.
create function {schema}.room_1(q int, most int) returns int language sql volatile
  set enable_seqscan = off set enable_bitmapscan = off as $$
  select greatest(0, most
    - (select count(*) from (select from {schema}.job where queue = q and owner is null limit most) j)::int
    - (select count(*) from (select from {schema}.later where queue = q limit most) l)::int)
$$;
