-- Version 3: priorities that starve, paused queues.

-- The first waiting job at or behind each of these places, within its priority, and for how long it has been eligible.
create function {schema}.firsts_1(q int, places bigint[]) returns table (place bigint, waits double precision)
  language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
#variable_conflict use_column
begin
  for i in 1 .. cardinality(places) loop
    return query select j.place, {schema}.clock() - j.eligible_at from {schema}.job j
      where j.queue = q and j.place >= places[i] and j.place < places[i] + (1::bigint << 56) and j.owner is null
      order by j.queue, j.place limit 1;
  end loop;
end $$;

-- The latest pause or resumption of a queue.
create table {schema}.pause (queue int primary key, paused boolean not null, by text not null,
  since double precision not null);

create function {schema}.pause_1(q int, wanted boolean, who text) returns boolean language plpgsql as $$
begin
  insert into {schema}.pause as known values (q, wanted, who, {schema}.clock())
    on conflict (queue) do update set paused = wanted, by = who, since = excluded.since where known.paused <> wanted;
  return found;
end $$;

-- The same as in version 1, without the jobs of paused queues.
create or replace function {schema}.claim_1(me text, my_era bigint, queues int[], floors bigint[], most int)
  returns setof {schema}.job language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare taken int; moment double precision := {schema}.clock();
begin
  perform set_config('synchronous_commit', 'off', true);
  perform {schema}.check_1(me, my_era);
  for i in 1 .. cardinality(queues) loop
    continue when exists (select from {schema}.pause where queue = queues[i] and paused);
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
