-- Version 2: the completion of jobs within transactions, the deliveries whose handlers have started, jobs by id, schedules.

-- Generated ids begin with their time, so new ones are added at the end of an index.
create index job_id on {schema}.job (id);
create index later_id on {schema}.later (id);
create index dead_id on {schema}.dead (id);

-- started: the delivery whose handler has started, as far as its owner has told.
alter table {schema}.job add column started int not null default 0;

-- Notes that these runs have started, and answers which of them are this owner's. Rows that a transaction of a handler
-- has locked are passed over: it ends its job.
create function {schema}.started_1(me text, queues int[], places bigint[], deliveries int[]) returns setof bigint
  language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  update {schema}.job set started = delivery where ctid = any(array(
    select j.ctid from {schema}.job j join unnest(queues, places, deliveries) as u(queue, place, delivery)
      using (queue, place, delivery) where j.owner = me and j.started <> j.delivery for update of j skip locked));
  return query select j.place from {schema}.job j join unnest(queues, places, deliveries) as u(queue, place, delivery)
    using (queue, place, delivery) where j.owner = me;
end $$;

-- Completes a job in the transaction of its handler; answers done or lost. One text parameter, as for enqueue_1. The
-- transaction has the row's lock from here on, and a rescuer waits for it: one that is left open is ended by the server.
create function {schema}.complete_1(document text) returns text language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off as $$
declare doc jsonb := document::jsonb; ended bigint;
begin
  if (doc ->> 'archive')::boolean then
    select into ended * from {schema}.move_1(doc ->> 'owner', array[(doc ->> 'queue')::int],
      array[(doc ->> 'place')::bigint], array[(doc ->> 'delivery')::int], array['dead'], array[(doc ->> 'queue')::int],
      array[null::float8], array[(doc ->> 'attempt')::int], array[null::text]);
  else
    with gone as (
        delete from {schema}.job where queue = (doc ->> 'queue')::int and place = (doc ->> 'place')::bigint
          and delivery = (doc ->> 'delivery')::int and owner = doc ->> 'owner' returning place, home, id, chosen),
      freed as (delete from {schema}.ids i using gone where gone.chosen and i.queue = gone.home and i.id = gone.id)
      select place into ended from gone;
  end if;
  perform set_config('idle_in_transaction_session_timeout', '10s', true);
  return case when ended is null then 'lost' else 'done' end;
end $$;

-- Whether a transaction that completes a job has committed; null: it has not ended.
create function {schema}.completed_1(me text, q int, at bigint, number int) returns boolean language plpgsql
  set lock_timeout = '2s' set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from {schema}.job where queue = q and place = at and delivery = number and owner = me for update;
  return not found;
exception when lock_not_available then
  return null;
end $$;

-- last: the latest tick of a schedule that was handled; missed: ticks that got no job.
create table {schema}.schedule (queue int not null, key text not null, last double precision not null,
  missed bigint not null, primary key (queue, key));

-- Handles a tick if the latest one is `seen`, and stores its job, where there is one: answers fired, late, or what
-- enqueue_1 answers. The lock is for a schedule that has no row yet.
create function {schema}.fire_1(q int, k text, seen float8, tick float8, more bigint, document text) returns text
  language plpgsql as $$
declare told text;
begin
  perform pg_advisory_xact_lock(hashtextextended(q || ' ' || k, 2));
  if (select last from {schema}.schedule where queue = q and key = k) is distinct from seen then
    return 'late';
  end if;
  if document is not null then
    select into told answer from {schema}.enqueue_1(document);
    if told <> 'stored' then
      return told;
    end if;
  end if;
  insert into {schema}.schedule values (q, k, tick, more)
    on conflict (queue, key) do update set last = excluded.last, missed = schedule.missed + excluded.missed;
  return 'fired';
end $$;
