"""What a run is good for when it has ended: the commands `fastgan sample`, `interpolate`, `export` and `report`."""
