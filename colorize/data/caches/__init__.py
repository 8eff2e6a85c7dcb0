"""What is kept between runs about a folder of photos, so that it is found out once."""
