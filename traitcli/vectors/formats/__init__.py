"""Read and write the vector files of other tools."""
